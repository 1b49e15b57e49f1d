package edge

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"

	"buf.build/go/protovalidate"

	"github.com/swanherd/swanherd/edge/enroll"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// Defaults of Config.
const (
	DefaultStateDir  = "/var/lib/swanherd-edge"
	DefaultInterface = "swan0"
	DefaultIKEPort   = 500  // RFC 7296, Section 2
	DefaultNATPort   = 4500 // RFC 3948, Section 2
	DefaultTCPPort   = 4500 // RFC 9329, Section 2
)

// Config is what an agent needs.
type Config struct {
	// StateDir holds everything that survives a restart. Required.
	StateDir string
	// Token enrolls the edge if it is not enrolled yet, under the name EdgeID
	// or, if that is empty, its site's.
	Token, EdgeID string
	// Controllers, `host:port`, and CAPin, the pin of their authority, are for an edge
	// that enrolls without a Token, by the SerialNumber of its hardware.
	Controllers  []string
	CAPin        string
	SerialNumber string
	// TPM is a device, or a socket of an emulator, that keeps the control key and proves so
	// when the edge enrolls; empty: the key is a file.
	TPM string
	// IntentFile is run without a controller. Excludes Token.
	IntentFile string
	// Uplinks by name and interface; empty: every interface with a default
	// route, under a name that it keeps.
	Uplinks []*swanherdv1.Uplink
	// Segments are where the LANs of segments other than the default one are.
	Segments []Segment
	// DataPlane is what the operator asks for.
	DataPlane DataPlane
	// Workers is how many goroutines of the userspace data plane move packets in
	// each direction, 0 for one for every two processors; with that of the kernel, how
	// many SAs may share the traffic of a child, 0 for 17.
	Workers int
	// ESPOffload asks network interfaces to encrypt and decrypt, with the kernel's data
	// plane and where ESP is not in UDP.
	ESPOffload bool
	// FailClosed keeps what was routed into tunnels from leaving in clear also when
	// the agent ends in order, until another one runs, or Release.
	FailClosed bool
	// Interface is the name of the tunnel interface.
	Interface string
	// IKEPort is where the agent answers IKE without encapsulation; 0: nowhere.
	IKEPort uint16
	// TCPPort is where the agent takes IKE and ESP in TCP from peers whose network
	// blocks UDP; 0: nowhere. It connects to peers by TCP all the same.
	TCPPort uint16
	// MetricsListen is where Prometheus finds /metrics; invalid: nowhere.
	MetricsListen netip.AddrPort
	// UnsafeKeyLog is the directory that gets the keys of all tunnels in the
	// form of Wireshark's tables; empty: none does.
	UnsafeKeyLog string
	Logger       *slog.Logger
}

func (c Config) validate() error {
	switch {
	case c.StateDir == "":
		return errors.New("no state directory is named; use --state-dir")
	case c.IntentFile != "" && len(c.Controllers) > 0:
		return errors.New("an intent file and a controller are both given; an agent takes its intent from one of them")
	case c.IntentFile != "" && c.Token != "":
		return errors.New("an intent file and an enrollment token are both given; an agent takes its intent from one of them")
	case c.Interface == "" || len(c.Interface) > 15 || strings.ContainsAny(c.Interface, "/ %"):
		return fmt.Errorf("tunnel interface %q: a name has 1 to 15 characters without space, slash and percent", c.Interface)
	case c.Logger == nil:
		return errors.New("config has no Logger")
	}
	return validateUplinks(c.Uplinks)
}

// maxUplinks is how many an edge can have.
const maxUplinks = 16

// validateUplinks sees that each has a name and an interface of its own: by its addresses a
// tunnel would not know which of two it leaves by.
func validateUplinks(uplinks []*swanherdv1.Uplink) error {
	if len(uplinks) > maxUplinks {
		return fmt.Errorf("%d uplinks are named, an edge can have %d", len(uplinks), maxUplinks)
	}
	names, interfaces := map[string]bool{}, map[string]string{}
	for _, u := range uplinks {
		if err := protovalidate.Validate(u); err != nil {
			return fmt.Errorf("uplink %q: %w; a name is lower-case letters, digits and hyphens, such as wan1", u.GetName(), err)
		}
		if names[u.GetName()] {
			return fmt.Errorf("two uplinks have the name %s; give each its own", u.GetName())
		}
		if other, taken := interfaces[u.GetInterface()]; taken {
			return fmt.Errorf("uplinks %s and %s have the same interface %s; name it once", other, u.GetName(), u.GetInterface())
		}
		names[u.GetName()], interfaces[u.GetInterface()] = true, u.GetName()
	}
	return nil
}

// Credential is what the edge enrolls with, nil for nothing.
func (c Config) Credential() (*enroll.Token, error) {
	switch {
	case c.Token != "":
		return enroll.ParseToken(c.Token)
	case len(c.Controllers) > 0 && c.SerialNumber == "":
		return nil, errors.New("to enroll without a token the serial number of this device is needed; give it with --serial-number")
	case len(c.Controllers) > 0:
		return enroll.Controllers(c.Controllers, c.CAPin)
	}
	return nil, nil
}

// ParseUplink parses what --uplink says: name=wan1,interface=eth0 and, if
// wanted, class=broadband|mpls|lte|satellite, cost=10, metered=true. Tunnels go by the
// uplink of the least cost.
func ParseUplink(text string) (*swanherdv1.Uplink, error) {
	const form = "name=wan1,interface=eth0[,class=broadband|mpls|lte|satellite][,cost=10][,metered=true]"
	u := &swanherdv1.Uplink{}
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		var err error
		switch key {
		case "name":
			u.Name = value
		case "interface":
			u.Interface = value
		case "class":
			u.TransportClass, err = parseClass(value)
		case "cost":
			var cost uint64
			cost, err = strconv.ParseUint(value, 10, 32)
			u.Cost = uint32(cost)
		case "metered":
			u.Metered, err = strconv.ParseBool(value)
		default:
			err = errors.New("unknown key")
		}
		if err != nil {
			return nil, fmt.Errorf("uplink %q: %q: %w; the form is %s", text, part, err, form)
		}
	}
	if u.Name == "" || u.Interface == "" {
		return nil, fmt.Errorf("uplink %q lacks its name or interface; the form is %s", text, form)
	}
	return u, nil
}

func parseClass(s string) (swanherdv1.TransportClass, error) {
	v, ok := swanherdv1.TransportClass_value["TRANSPORT_CLASS_"+strings.ToUpper(s)]
	if !ok || v == 0 {
		return 0, errors.New("unknown class")
	}
	return swanherdv1.TransportClass(v), nil
}
