package dashboard

import (
	"crypto/x509"
	"embed"
	"fmt"
	"io/fs"
	"net/http"

	"google.golang.org/grpc"

	"github.com/swanherd/swanherd/dashboard/bridge"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

//go:embed all:dist
var dist embed.FS

// methods are what the user interface calls; nothing else passes the bridge.
var methods = []string{
	swanherdv1.FleetService_WatchFleet_FullMethodName,
	swanherdv1.FleetService_GetTunnel_FullMethodName,
	swanherdv1.FleetService_ListEvents_FullMethodName,
	swanherdv1.AccessService_WhoAmI_FullMethodName,
}

// rpcPrefix stands before the method's name in the path of a bridged call.
const rpcPrefix = "/rpc"

// contentSecurityPolicy lets the page load from here and nowhere else, and
// nobody frame it. No inline script or style is used.
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
	"font-src 'self'; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// New returns the dashboard as a handler for the root of a TLS listener. conn
// reaches the controller's operator services. providerRoots are the authorities of the
// certificate of its identity provider; nil: the system's.
func New(conn grpc.ClientConnInterface, providerRoots *x509.CertPool) (http.Handler, error) {
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		return nil, err
	}
	assets, err := newAssets(files)
	if err != nil {
		return nil, fmt.Errorf("load the user interface: %w", err)
	}
	access := &signIn{access: swanherdv1.NewAccessServiceClient(conn)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /auth/login", access.login)
	mux.HandleFunc("POST /auth/logout", access.logout)
	people := newProvider(conn, providerRoots)
	mux.HandleFunc("GET /auth/provider", people.describe)
	mux.HandleFunc("GET /auth/oidc", people.begin)
	mux.HandleFunc("GET "+callbackPath, people.callback)
	mux.Handle("POST "+rpcPrefix+"/", http.StripPrefix(rpcPrefix, bridge.New(bridge.Config{
		Conn: conn, Methods: methods, Authorization: authorization,
	})))
	mux.Handle("GET /", assets)
	return harden(http.NewCrossOriginProtection().Handler(mux)), nil
}

func harden(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentSecurityPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}
