package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// Config is the file with contexts and credentials. It is written 0600.
type Config struct {
	Current  string     `yaml:"current"`
	Contexts []*Context `yaml:"contexts"`
}

// A Context is one controller and how to sign in to it.
type Context struct {
	Name string `yaml:"name"`
	// Server is host:port of the operator listener.
	Server string `yaml:"server"`
	// CAPin is "sha256:" and the hash of the controller authority's public
	// key in hexadecimal, as the controller printed it.
	CAPin string `yaml:"ca_pin"`
	Token string `yaml:"token,omitempty"`
	// OIDC is a sign-in with the identity provider, in place of Token.
	OIDC *IDSession `yaml:"oidc,omitempty"`
	// Certificate and Key are PEM files of a client certificate, in place of Token.
	Certificate string `yaml:"certificate,omitempty"`
	Key         string `yaml:"key,omitempty"`
	Network     string `yaml:"network,omitempty"`

	// breakGlass is why changes are made without approval; empty: they are not.
	breakGlass string
	// learned is told the pin of an authority that the pinned one vouches for as the one
	// that takes its place; nil: nobody is.
	learned func(pin string)
}

func defaultConfigFile() string {
	if f := os.Getenv("SWANHERD_CONFIG"); f != "" {
		return f
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "swanherd.yaml"
	}
	return filepath.Join(dir, "swanherd", "config.yaml")
}

// loadConfig reads the file; one that does not exist is an empty one.
func loadConfig(file string) (*Config, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return &Config{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	var c Config
	if err := yaml.Unmarshal(b, &c); err != nil {
		return nil, usagef("%s: %w", file, err)
	}
	return &c, nil
}

// save replaces the file in one step.
func (c *Config) save(file string) error {
	b, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	tmp := file + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return os.Rename(tmp, file)
}

// remove forgets a context.
func (c *Config) remove(name string) {
	c.Contexts = slices.DeleteFunc(c.Contexts, func(x *Context) bool { return x.Name == name })
	if c.Current == name {
		c.Current = ""
	}
}

// set adds or replaces a context and makes it the current one.
func (c *Config) set(x *Context) {
	if i := slices.IndexFunc(c.Contexts, func(o *Context) bool { return o.Name == x.Name }); i >= 0 {
		c.Contexts[i] = x
	} else {
		c.Contexts = append(c.Contexts, x)
	}
	c.Current = x.Name
}

// find returns the named context; the current one when name is empty.
func (c *Config) find(name string) (*Context, error) {
	if name == "" {
		name = c.Current
	}
	if name == "" {
		return nil, usagef("not signed in: run `swanherd login --credential FILE` with the file that the controller wrote at its first start, or `swanherd login SERVER --ca-pin PIN` with --token TOKEN or --oidc")
	}
	for _, x := range c.Contexts {
		if x.Name == name {
			return x, nil
		}
	}
	return nil, usagef("no context %q; `swanherd context list` shows those there are", name)
}

func newContexts(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "context", Aliases: []string{"contexts"}, Short: "Show and choose contexts"}
	list := &cobra.Command{
		Use: "list", Short: "List the contexts", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := loadConfig(s.configFile)
			if err != nil {
				return err
			}
			if s.output != "table" {
				return s.printContexts(cfg)
			}
			t := newTable(s.Out, "CURRENT", "NAME", "SERVER", "NETWORK")
			for _, x := range cfg.Contexts {
				mark := ""
				if x.Name == cfg.Current {
					mark = "*"
				}
				t.row(mark, x.Name, x.Server, x.Network)
			}
			return t.flush()
		},
	}
	use := &cobra.Command{
		Use: "use NAME", Short: "Make a context the current one", Args: exactly(1, "the context's name"),
		RunE: func(_ *cobra.Command, args []string) error {
			return s.editContext(args[0], func(cfg *Config, x *Context) { cfg.Current = x.Name })
		},
	}
	set := &cobra.Command{
		Use: "set", Short: "Set the network of the current context (--network NAME)", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if s.network == "" {
				return usagef("give --network NAME")
			}
			return s.editContext(s.context, func(_ *Config, x *Context) { x.Network = strings.TrimPrefix(s.network, "networks/") })
		},
	}
	cmd.AddCommand(list, use, set)
	return cmd
}

// printContexts writes the contexts for programs, without their tokens.
func (s *session) printContexts(cfg *Config) error {
	type row struct {
		Name    string `json:"name" yaml:"name"`
		Server  string `json:"server" yaml:"server"`
		Network string `json:"network,omitempty" yaml:"network,omitempty"`
		Current bool   `json:"current" yaml:"current"`
	}
	rows := []row{}
	for _, x := range cfg.Contexts {
		rows = append(rows, row{x.Name, x.Server, x.Network, x.Name == cfg.Current})
	}
	out := struct {
		Contexts []row `json:"contexts" yaml:"contexts"`
	}{rows}
	if s.output == "yaml" {
		return yaml.NewEncoder(s.Out).Encode(out)
	}
	e := json.NewEncoder(s.Out)
	e.SetIndent("", "  ")
	return e.Encode(out)
}

func (s *session) editContext(name string, edit func(*Config, *Context)) error {
	cfg, err := loadConfig(s.configFile)
	if err != nil {
		return err
	}
	x, err := cfg.find(name)
	if err != nil {
		return err
	}
	edit(cfg, x)
	return cfg.save(s.configFile)
}

// atLeast is cobra.MinimumNArgs with an error that names what is missing.
func atLeast(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return usagef("%s takes %s; see `%s --help`", cmd.CommandPath(), what, cmd.CommandPath())
		}
		return nil
	}
}

// exactly is cobra.ExactArgs with an error that names what is missing.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%s takes %s; see `%s --help`", cmd.CommandPath(), what, cmd.CommandPath())
		}
		return nil
	}
}
