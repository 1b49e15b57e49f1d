package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Exit codes.
const (
	exitOK         = 0
	exitFailed     = 1
	exitChanges    = 2 // of plan and diff: something would change
	exitInvalid    = 3
	exitNotFound   = 4
	exitNotAllowed = 5
	exitUsage      = 64 // EX_USAGE of sysexits.h
)

// IO is where a command reads and writes.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
}

// usageError is a mistake in the command line or in a file given on it.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// Main runs the command line and returns the exit code.
func Main(ctx context.Context, args []string, streams IO) int {
	root := newRoot(streams)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errChanges):
		return exitChanges
	case errors.Is(err, errUnreachable), errors.Is(err, errBroken):
		return exitFailed
	}
	fmt.Fprintln(streams.Err, "swanherd:", explain(err))
	return exitCode(err)
}

// session is what every command shares: the streams, the global flags and,
// once dialled, the clients.
type session struct {
	IO
	// ctx is the context of the command that runs.
	ctx        context.Context
	configFile string
	context    string
	network    string
	output     string
	breakGlass string
	// dryRun: what is asked for is checked and not done.
	dryRun bool
	// controllerCA: commands about an authority are about the controller's own.
	controllerCA bool
	// successor is the pin of the authority that takes the place of the one that the
	// context pins, if the controller showed that.
	successor atomic.Pointer[string]
	// documents counts what was printed as YAML.
	documents int
}

func newRoot(streams IO) *cobra.Command {
	s := &session{IO: streams}
	root := &cobra.Command{
		Use:           "swanherd",
		Short:         "Operate a Swanherd fleet",
		Long:          "swanherd operates a fleet of IPsec edges: apply meshes, watch tunnels, admit edges.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see `%s --help`", err, cmd.CommandPath())
	})
	flags := root.PersistentFlags()
	flags.StringVar(&s.configFile, "config", defaultConfigFile(), "file with contexts and credentials")
	flags.StringVar(&s.context, "context", "", "context to use instead of the current one")
	flags.StringVarP(&s.network, "network", "n", "", "network to work in, - for all (default: the context's)")
	flags.StringVarP(&s.output, "output", "o", "table", "output: table, json or yaml")
	flags.StringVar(&s.breakGlass, "break-glass", "", "why a change is made without the approval that its network demands, for the audit log; for administrators")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		s.ctx = cmd.Context()
		switch s.output {
		case "table", "json", "yaml":
			return nil
		}
		return usagef("--output %q is not one of table, json, yaml", s.output)
	}
	root.AddCommand(
		newLogin(s), newLogout(s), newWhoAmI(s), newContexts(s),
		newApply(s), newPlan(s), newDiff(s), newGet(s), newDescribe(s), newDelete(s), newWatch(s), newResume(s),
		newToken(s), newGateway(s), newPSK(s), newEnrollment(s), newDevice(s), newEdge(s), newCertificates(s), newAuthority(s), newAPIToken(s), newRole(s), newUser(s),
		newDashboard(s), newEvents(s), newExplain(s), newAssertion(s), newRevision(s), newChangeSet(s), newRollout(s), newAudit(s), newKey(s), newReplica(s), newTunnel(s), newJob(s), newAlert(s), newWebhook(s), newHistory(s),
	)
	return root
}

// parent returns the network to work in as a resource name.
func (s *session) parent(cfg *Context) (string, error) {
	switch {
	case s.network != "":
		return "networks/" + strings.TrimPrefix(s.network, "networks/"), nil
	case cfg.Network != "":
		return "networks/" + cfg.Network, nil
	}
	return "", usagef("no network: give --network NAME, or set one for the context with `swanherd context set --network NAME`")
}

// explain renders err for people: the status message, then each violation.
func explain(err error) string {
	st, ok := status.FromError(err)
	if !ok || st.Code() == codes.OK {
		return err.Error()
	}
	text := st.Message()
	if st.Code() == codes.Unavailable {
		text += " (is the controller running, and is the context's server right?)"
	}
	// The violations say it all; the message only repeats the first ones.
	const refused = "refused, nothing was changed"
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.BadRequest:
			text = refused
			for _, v := range d.GetFieldViolations() {
				text += "\n  " + v.GetField() + ": " + v.GetDescription()
			}
		case *errdetails.PreconditionFailure:
			text = refused
			for _, v := range d.GetViolations() {
				text += "\n  " + v.GetSubject() + ": " + v.GetDescription()
			}
		}
	}
	return text
}

func exitCode(err error) int {
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.Aborted, codes.AlreadyExists:
		return exitInvalid
	case codes.NotFound:
		return exitNotFound
	case codes.PermissionDenied, codes.Unauthenticated:
		return exitNotAllowed
	}
	if strings.HasPrefix(err.Error(), "unknown command") { // cobra's, which has no type
		return exitUsage
	}
	return exitFailed
}
