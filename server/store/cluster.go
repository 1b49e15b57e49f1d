package store

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// Cluster is a cluster of embedded etcds, each inside a controller. Three of them go on
// when one is lost.
type Cluster struct {
	// Member is this one's name, a key of Peers.
	Member string
	// Peers are all members, this one too: where the others reach each,
	// `https://host:port`. It has to be the same at every member at its first start; later
	// the store knows better.
	Peers map[string]string
	// Join says that the cluster is there already, and lets this one in (Store.AddMember).
	// Peers are those that it has then. It matters at the first start only.
	Join bool
	// Listen is the address that this member listens on for the others,
	// `https://address:port`. Default: its own of Peers.
	Listen string
	// CertFile, KeyFile and CAFile, in PEM, prove members to one another. They may be left
	// out when every member is on loopback, as in a test.
	CertFile, KeyFile, CAFile string
}

// ParsePeers parses `a=https://host:port,b=https://...`.
func ParsePeers(list []string) (map[string]string, error) {
	peers := map[string]string{}
	for _, one := range list {
		name, address, ok := strings.Cut(one, "=")
		if !ok || name == "" || peers[name] != "" {
			return nil, fmt.Errorf("cluster member %q: want name=https://host:port, each name once", one)
		}
		peers[name] = address
	}
	return peers, nil
}

// configure makes cfg that of a member; nil leaves it alone.
func (c *Cluster) configure(cfg *embed.Config) error {
	if c == nil {
		return nil
	}
	own, ok := c.Peers[c.Member]
	if !ok {
		return fmt.Errorf("cluster has no member %q; name this one and every other in the list of members", c.Member)
	}
	advertise, err := c.peerURL(own)
	if err != nil {
		return err
	}
	listen := advertise
	if c.Listen != "" {
		if listen, err = c.peerURL(c.Listen); err != nil {
			return err
		}
	}
	var initial []string
	for name, address := range c.Peers {
		if _, err := c.peerURL(address); err != nil {
			return err
		}
		initial = append(initial, name+"="+address)
	}
	slices.Sort(initial)
	cfg.Name = c.Member
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*listen}, []url.URL{*advertise}
	cfg.InitialCluster = strings.Join(initial, ",")
	cfg.InitialClusterToken = "swanherd"
	if c.Join {
		cfg.ClusterState = embed.ClusterStateFlagExisting
	}
	// etcd's defaults: there is an election to lose now.
	cfg.TickMs, cfg.ElectionMs = 100, 1000
	cfg.PeerTLSInfo = transport.TLSInfo{CertFile: c.CertFile, KeyFile: c.KeyFile, TrustedCAFile: c.CAFile, ClientCertAuth: c.CAFile != ""}
	return nil
}

// peerURL holds members beyond the machine to TLS that proves both sides: who reaches a
// member as another one writes what he likes.
func (c *Cluster) peerURL(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Port() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("cluster member %q: want https://host:port", address)
	}
	if u.Scheme == "http" {
		if addr, err := netip.ParseAddr(u.Hostname()); err != nil || !addr.IsLoopback() {
			return nil, fmt.Errorf("cluster member %q: without TLS only on loopback; want https://host:port", address)
		}
		return u, nil
	}
	if c.CertFile == "" || c.KeyFile == "" || c.CAFile == "" {
		return nil, errors.New("members of a cluster prove themselves by certificates; give --cluster-cert, --cluster-key and --cluster-ca")
	}
	return u, nil
}

// hint says what a start that took too long may have waited for.
func (c *Cluster) hint() string {
	if c == nil {
		return ""
	}
	return fmt.Sprintf("; it waits until more than half of its %d members run", len(c.Peers))
}
