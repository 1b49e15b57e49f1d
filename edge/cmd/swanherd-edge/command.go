package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/swanherd/swanherd/edge"
	"github.com/swanherd/swanherd/edge/enroll"
	"github.com/swanherd/swanherd/edge/state"
)

// usageError is a mistake on the command line.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "swanherd-edge",
		Short:         "The edge agent of Swanherd",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(newRunCommand(), newEnrollCommand(), newFingerprintCommand(), newStatusCommand(), newTranscriptCommand(), newReleaseCommand(), newVersionCommand())
	return root
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no argument %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return nil
}

func stateDirFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "state-dir", edge.DefaultStateDir, "directory of the identity and the last intent (0700)")
}

func tpmFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "tpm", "", "TPM 2.0 that keeps the control key, /dev/tpmrm0 or a socket; for agents that were built with the tag tpm; empty: the key is a file")
}

// logFlags are the flags of commands that log.
type logFlags struct{ level, format string }

func (l *logFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.level, "log-level", "info", "debug, info, warn or error")
	cmd.Flags().StringVar(&l.format, "log-format", "text", "text or json")
}

func (l *logFlags) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.level)); err != nil {
		return nil, usagef("--log-level %q: use debug, info, warn or error", l.level)
	}
	options := &slog.HandlerOptions{Level: level}
	switch l.format {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	}
	return nil, usagef("--log-format %q: use text or json", l.format)
}

// tokenFlags take the enrollment token from the command line, or from a file or
// the environment, where other users of the machine do not see it.
type tokenFlags struct {
	token, file, edgeID string
	controllers         []string
	caPin, serial       string
}

const tokenVariable = "SWANHERD_ENROLLMENT_TOKEN"

func (t *tokenFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.token, "token", "", "enrollment token; visible to other users of this machine, so better --token-file or $"+tokenVariable)
	cmd.Flags().StringVar(&t.file, "token-file", "", "file with the enrollment token")
	cmd.Flags().StringVar(&t.edgeID, "edge-id", "", "name of the edge; empty: its site's")
	cmd.Flags().StringSliceVar(&t.controllers, "controller", nil, "host:port of the controller, for a device whose serial number is registered and that has no token; may be repeated")
	cmd.Flags().StringVar(&t.caPin, "ca-pin", "", "pin of the controller's authority, sha256:..., with --controller")
	cmd.Flags().StringVar(&t.serial, "serial-number", "", "serial number of this device; empty: the firmware's, if there is one")
}

// serialFile is where the kernel shows the serial number that firmware has (SMBIOS,
// type 1).
const serialFile = "/sys/class/dmi/id/product_serial"

// into puts what was given into a configuration.
func (t *tokenFlags) into(cfg *edge.Config) (err error) {
	if cfg.Token, err = t.value(); err != nil {
		return err
	}
	if len(t.controllers) > 0 && cfg.Token != "" {
		return usagef("a token and --controller are both given; a token says where the controller is")
	}
	if len(t.controllers) > 0 && t.caPin == "" {
		return usagef("--controller needs --ca-pin, or anybody could answer")
	}
	cfg.EdgeID, cfg.Controllers, cfg.CAPin, cfg.SerialNumber = t.edgeID, t.controllers, t.caPin, t.serial
	if cfg.SerialNumber == "" {
		if b, err := os.ReadFile(serialFile); err == nil && serialPattern.Match(bytes.TrimSpace(b)) {
			cfg.SerialNumber = string(bytes.TrimSpace(b))
		}
	}
	return nil
}

// serialPattern is what a serial number may be; firmware may say "Not Specified".
var serialPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (t *tokenFlags) value() (string, error) {
	if t.token != "" && t.file != "" {
		return "", usagef("--token and --token-file are both given")
	}
	if t.file != "" {
		b, err := state.ReadSecret(t.file)
		if errors.Is(err, fs.ErrNotExist) {
			return "", usagef("--token-file: %w", err)
		}
		return strings.TrimSpace(string(b)), err
	}
	if t.token != "" {
		return t.token, nil
	}
	return os.Getenv(tokenVariable), nil
}

func newRunCommand() *cobra.Command {
	var (
		cfg       edge.Config
		token     tokenFlags
		logging   logFlags
		uplinks   []string
		segments  []string
		dataPlane string
		metrics   string
	)
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the agent",
		Long: `Run the agent until it gets SIGTERM or SIGINT; then its peers are told and its
routes removed.

It takes its intent from the controller with which it is enrolled (or enrolls
itself first, with --token), and after a start runs the last one until the
controller is there. With --intent it takes it from a file, YAML or JSON, and
needs no controller.

It needs root, or CAP_NET_ADMIN and CAP_NET_BIND_SERVICE, and /dev/net/tun.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if cfg.Logger, err = logging.logger(); err != nil {
				return err
			}
			if err = token.into(&cfg); err != nil {
				return err
			}
			cfg.DataPlane = edge.DataPlane(dataPlane)
			for _, text := range uplinks {
				u, err := edge.ParseUplink(text)
				if err != nil {
					return usageError{err}
				}
				cfg.Uplinks = append(cfg.Uplinks, u)
			}
			if cfg.Segments, err = parseSegments(segments); err != nil {
				return err
			}
			if metrics != "" {
				if cfg.MetricsListen, err = netip.ParseAddrPort(metrics); err != nil {
					return usagef("--metrics-listen: %w", err)
				}
			}
			cfg.Logger.Info("swanherd-edge", "version", edge.Version())
			return edge.Run(cmd.Context(), cfg)
		},
	}
	stateDirFlag(cmd, &cfg.StateDir)
	tpmFlag(cmd, &cfg.TPM)
	token.add(cmd)
	logging.add(cmd)
	f := cmd.Flags()
	f.StringVar(&cfg.IntentFile, "intent", "", "run this intent file, without a controller")
	f.StringArrayVar(&uplinks, "uplink", nil, "name=wan1,interface=eth0[,class=broadband|mpls|lte|satellite][,cost=10][,metered=true]; may be repeated; without it, every interface with a default route")
	segmentFlag(cmd, &segments)
	f.StringVar(&dataPlane, "data-plane", string(edge.DataPlaneAuto), "auto, kernel or userspace; auto is the kernel's if --tcp-port is 0 and it works; with TCP kernel needs one that has ESP in TCP")
	f.IntVar(&cfg.Workers, "workers", 0, "how many threads of the userspace data plane move packets in each direction; 0: one for every two processors. With that of the kernel, how many SAs may share the traffic of a child: one for each processor and one for all, if this is as many; 0: 17")
	f.BoolVar(&cfg.ESPOffload, "esp-offload", false, "have network interfaces that can do it encrypt and decrypt ESP, with the kernel's data plane and where no NAT puts it into UDP; `ip xfrm state` shows which SAs are offloaded")
	f.BoolVar(&cfg.FailClosed, "fail-closed", false, "after an orderly stop, too, keep what was routed into tunnels from leaving in clear, until another agent runs or `swanherd-edge release`: for a service that is restarted")
	f.StringVar(&cfg.Interface, "tun-name", edge.DefaultInterface, "name of the tunnel interface")
	f.Uint16Var(&cfg.IKEPort, "ike-port", edge.DefaultIKEPort, "UDP port of IKE without encapsulation; 0: only the NAT traversal port 4500")
	f.Uint16Var(&cfg.TCPPort, "tcp-port", edge.DefaultTCPPort, "TCP port of IKE and ESP from peers whose network blocks UDP; 0: none is taken")
	f.StringVar(&cfg.UnsafeKeyLog, "unsafe-key-log", "", "DIRECTORY that gets the keys of all tunnels in the files ikev2_decryption_table and esp_sa, to find a fault with Wireshark: WIRESHARK_CONFIG_DIR=DIRECTORY wireshark; whoever reads them reads all traffic")
	f.StringVar(&metrics, "metrics-listen", "", "address and port of /metrics for Prometheus, such as 127.0.0.1:7446; empty: none")
	return cmd
}

func newEnrollCommand() *cobra.Command {
	var (
		dir     string
		tpm     string
		token   tokenFlags
		logging logFlags
	)
	cmd := &cobra.Command{
		Use:   "enroll",
		Short: "Get this edge its identity from the controller",
		Long: `Get this edge its identity from the controller that the token names. The keys
are made here and do not leave this machine. It may be repeated after an error:
the token is used once. If an operator has to approve, it waits for that.

A device whose serial number is registered needs no token: give --controller and
--ca-pin, which are no secrets.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := logging.logger()
			if err != nil {
				return err
			}
			cfg := edge.Config{StateDir: dir, TPM: tpm, Logger: logger}
			if err := token.into(&cfg); err != nil {
				return err
			}
			return enrollOnce(cmd, cfg)
		},
	}
	stateDirFlag(cmd, &dir)
	tpmFlag(cmd, &tpm)
	token.add(cmd)
	logging.add(cmd)
	return cmd
}

func enrollOnce(cmd *cobra.Command, cfg edge.Config) error {
	token, err := cfg.Credential()
	if err != nil {
		return err
	}
	if token == nil {
		return usagef("no enrollment token; give --token, --token-file or $%s, or --controller for a device that is registered", tokenVariable)
	}
	d, tpm, err := edge.OpenState(cfg.StateDir, cfg.TPM)
	if err != nil {
		return err
	}
	defer d.Close()
	if id, err := d.LoadIdentity(); err == nil {
		return fmt.Errorf("this edge is enrolled already, as %s; to enroll it anew, move %s/identity away first", id.Edge, d.Path())
	} else if !errors.Is(err, state.ErrNotEnrolled) {
		return err
	}
	id, err := enroll.Enroll(cmd.Context(), enroll.Config{
		Dir: d, Token: token, EdgeID: cfg.EdgeID, SerialNumber: cfg.SerialNumber, AgentVersion: edge.Version(), Logger: cfg.Logger, TPM: tpm,
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "enrolled as %s\n", id.Edge)
	return nil
}

func newFingerprintCommand() *cobra.Command {
	var dir, tpmPath string
	var ek bool
	cmd := &cobra.Command{
		Use:   "fingerprint",
		Short: "Show the fingerprint of the key that this device will enroll with",
		Long: `Show the fingerprint of the key that this device will enroll with, SHA-256 over its
public key info. The key is made if there is none. A device that is registered with
it, by ` + "`swanherd device create --key-fingerprint`" + `, is admitted without an operator, and
nobody else is who shows its serial number.

With --ek it is the fingerprint of the TPM's endorsement key, by which an operator
registers the hardware (` + "`swanherd device create --ek-fingerprint`" + `).`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ek && tpmPath == "" {
				return usagef("--ek needs --tpm and the TPM's device")
			}
			d, tpm, err := edge.OpenState(dir, tpmPath)
			if err != nil {
				return err
			}
			defer d.Close()
			if ek {
				fingerprint, err := tpm.EKFingerprint()
				if err == nil {
					fmt.Fprintln(cmd.OutOrStdout(), fingerprint)
				}
				return err
			}
			keys, err := d.CandidateKeys()
			if err != nil {
				return err
			}
			fingerprint, err := keys.Fingerprint()
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), fingerprint)
			return nil
		},
	}
	stateDirFlag(cmd, &dir)
	tpmFlag(cmd, &tpmPath)
	cmd.Flags().BoolVar(&ek, "ek", false, "of the TPM's endorsement key instead")
	return cmd
}

// segmentFlag tells where the LANs of segments are.
func segmentFlag(cmd *cobra.Command, to *[]string) {
	cmd.Flags().StringArrayVar(to, "segment", nil, "name=corp,netns=corp: the network namespace that has the LAN interfaces of a segment other than the default one; may be repeated")
}

func parseSegments(texts []string) (out []edge.Segment, err error) {
	for _, text := range texts {
		s, err := edge.ParseSegment(text)
		if err != nil {
			return nil, usageError{err}
		}
		out = append(out, s)
	}
	return out, nil
}

func newReleaseCommand() *cobra.Command {
	var dir, tunnelInterface string
	var segments []string
	var logging logFlags
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Let traffic leave in clear again after an agent is gone for good",
		Long: `Remove what keeps the traffic of tunnels from leaving in clear after an agent was
killed, or stopped when it ran with --fail-closed: unreachable routes, and the
rules of transport mode and of default routes; and those of several uplinks. No
agent may run with that state directory.`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			logger, err := logging.logger()
			if err != nil {
				return err
			}
			open, err := parseSegments(segments)
			if err != nil {
				return err
			}
			return edge.Release(dir, tunnelInterface, open, logger)
		},
	}
	stateDirFlag(cmd, &dir)
	segmentFlag(cmd, &segments)
	logging.add(cmd)
	cmd.Flags().StringVar(&tunnelInterface, "tun-name", edge.DefaultInterface, "name of the tunnel interface")
	return cmd
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the agent's version",
		Args:  noArguments,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), edge.Version()) },
	}
}
