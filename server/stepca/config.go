package stepca

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Config is how to reach a step-ca, and as whom.
type Config struct {
	// URL is where it is, `https://ca.example.net`, as its tokens name it: one of its
	// `dnsNames`.
	URL string `yaml:"url"`
	// RootFile holds its root certificate in PEM: what it shows, and what it signs, has to
	// chain to that.
	RootFile string `yaml:"rootFile"`
	// Provisioner is the name of a provisioner of the type JWK.
	Provisioner string `yaml:"provisioner"`
	// KeyFile holds its key, a private JWK, in JSON or, with PasswordFile, encrypted; both are
	// read for each request. Default: the systemd credentials
	// `swanherd-external-authority-NAME-key` and `...-password`.
	KeyFile      string `yaml:"keyFile"`
	PasswordFile string `yaml:"passwordFile"`
	// Lifetime is asked for; 0: what the provisioner gives if nobody asks.
	Lifetime time.Duration `yaml:"lifetime"`
}

// namePattern is what an external authority may be called.
var namePattern = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Load reads the file of external authorities, in YAML: their configurations by name.
// Credentials is the directory of systemd's credentials; empty: none.
func Load(file, credentials string) (map[string]*Client, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var configs map[string]Config
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&configs); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	out, errs := map[string]*Client{}, []error(nil)
	for _, name := range slices.Sorted(maps.Keys(configs)) {
		cfg := configs[name]
		cfg.findCredentials(credentials, name)
		c, err := New(cfg)
		if !namePattern.MatchString(name) {
			err = errors.New("want a name of a-z, 0-9 and -, which begins with a letter")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", file, name, err))
			continue
		}
		out[name] = c
	}
	return out, errors.Join(errs...)
}

// findCredentials fills in the files of secrets that were left open.
func (c *Config) findCredentials(dir, name string) {
	if dir == "" {
		return
	}
	for field, what := range map[*string]string{&c.KeyFile: "key", &c.PasswordFile: "password"} {
		at := filepath.Join(dir, "swanherd-external-authority-"+name+"-"+what)
		if _, err := os.Stat(at); *field == "" && err == nil {
			*field = at
		}
	}
}

// mistakes says everything that is wrong with c, but for the files.
func (c *Config) mistakes() error {
	var errs []error
	if u, err := url.Parse(c.URL); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		errs = append(errs, fmt.Errorf("url %q: want https://host or https://host:port of the step-ca", c.URL))
	}
	if c.Provisioner == "" {
		errs = append(errs, errors.New("provisioner: give the name of a provisioner of the type JWK"))
	}
	if c.RootFile == "" {
		errs = append(errs, errors.New("rootFile: give a file with the root certificate, as `step ca root` writes it"))
	}
	if c.KeyFile == "" {
		errs = append(errs, errors.New("keyFile: give a file with the key of the provisioner, a private JWK, or the systemd credential"))
	}
	if c.Lifetime < 0 {
		errs = append(errs, fmt.Errorf("lifetime %s: want a time such as 8760h", c.Lifetime))
	}
	return errors.Join(errs...)
}

// roots are the certificates of RootFile.
func (c *Config) roots() (*x509.CertPool, error) {
	b, err := os.ReadFile(c.RootFile)
	if err != nil {
		return nil, fmt.Errorf("rootFile: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("rootFile: %s holds no certificate in PEM", c.RootFile)
	}
	return pool, nil
}

// base is the URL without a slash at its end.
func (c *Config) base() string { return strings.TrimSuffix(c.URL, "/") }
