package pki

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// A Keeper keeps authorities in the store, with their keys sealed.
type Keeper struct {
	store  *store.Store
	sealer *store.Sealer

	mu   sync.Mutex
	open map[string]opened // guarded by mu

	// serving is the controller's authority, the newest that Serving or Controller saw.
	serving atomic.Pointer[Authority]
}

type opened struct {
	revision  int64
	authority *Authority
}

// NewKeeper returns a Keeper on the store.
func NewKeeper(s *store.Store, sealer *store.Sealer) *Keeper {
	return &Keeper{store: s, sealer: sealer, open: map[string]opened{}}
}

// CreateNetworkIn makes the authority of a new network as a part of t.
func (k *Keeper) CreateNetworkIn(t *store.Txn, network model.NetworkName, now time.Time) error {
	a, err := NewAuthority("Swanherd network "+network.Network, now)
	if err != nil {
		return err
	}
	return k.createIn(t, network.AuthorityName(), a)
}

// DropNetworkIn removes the authority of a network as a part of t.
func (k *Keeper) DropNetworkIn(t *store.Txn, network model.NetworkName) {
	k.store.Authorities.DropIn(t, network.AuthorityName())
}

// Network returns the network's authority. The error is store.ErrNotFound when
// there is no such network.
func (k *Keeper) Network(ctx context.Context, network model.NetworkName) (*Authority, error) {
	return k.get(ctx, network.AuthorityName())
}

// get reads an authority, and opens its key unless that was done before for
// the same revision.
func (k *Keeper) get(ctx context.Context, name string) (*Authority, error) {
	row, err := k.store.Authorities.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	return k.opened(row)
}

// opened is a stored authority with its key open.
func (k *Keeper) opened(row model.Row[*storev1.CertificateAuthority]) (*Authority, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if o, ok := k.open[row.Name]; ok && o.revision == row.Revision {
		return o.authority, nil
	}
	a, err := k.decode(row.Value)
	if err != nil {
		return nil, err
	}
	a.name, a.revision = row.Name, row.Revision
	k.open[row.Name] = opened{row.Revision, a}
	return a, nil
}

func (k *Keeper) createIn(t *store.Txn, name string, a *Authority) error {
	key, err := k.store.Authorities.Key(name)
	if err != nil {
		return err
	}
	sealed, err := k.seal(key, a)
	if err != nil {
		return err
	}
	k.store.Authorities.CreateIn(t, name, &storev1.CertificateAuthority{Name: name, Certificate: a.certificate.Raw, Key: sealed})
	return nil
}

// seal encrypts the authority's key for its record at an etcd key.
func (k *Keeper) seal(etcdKey string, a *Authority) (*storev1.SealedSecret, error) {
	secret, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("encode key of %s: %w", etcdKey, err)
	}
	defer clear(secret)
	return k.sealer.Seal(etcdKey, secret), nil
}

func (k *Keeper) decode(stored *storev1.CertificateAuthority) (*Authority, error) {
	name := stored.GetName()
	certificate, err := x509.ParseCertificate(stored.GetCertificate())
	if err != nil {
		return nil, fmt.Errorf("parse certificate of %s: %w", name, err)
	}
	etcdKey, err := k.store.Authorities.Key(name)
	if err != nil {
		return nil, err
	}
	secret, err := k.sealer.Open(etcdKey, stored.GetKey())
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	key, err := x509.ParsePKCS8PrivateKey(secret)
	if err != nil {
		return nil, fmt.Errorf("parse key of %s: not PKCS #8", name)
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok || !signer.PublicKey.Equal(certificate.PublicKey) {
		return nil, fmt.Errorf("key of %s is not that of its certificate", name)
	}
	return &Authority{
		certificate: certificate, key: signer, chain: stored.GetChain(), bridge: bridge(stored), trusted: model.TrustAnchors(stored),
	}, nil
}

// RequireIssuerIn makes t depend on the authority's being the one that issues, still:
// what another one issued after it took its place would not be renewed.
func (k *Keeper) RequireIssuerIn(t *store.Txn, a *Authority) {
	k.store.Authorities.RequireIn(t, a.name, a.revision)
}
