// Command stepca is Smallstep's step-ca for tests: its server as it is, with an authority,
// an intermediate one and provisioners that are made when it first starts. It is in a module
// of its own, so that its dependencies are not the product's; and it links the server alone,
// not the drivers of hardware and clouds, which take the compiler minutes.
//
// Its argument is a directory, which keeps what it is from one start to the next: root.pem,
// key.json (the provisioners' key), locked.json (the same as `step` encrypts it), password, and
// ca.json, which is step-ca's own configuration. It writes its URL to standard output, and serves until standard
// input ends.
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/smallstep/certificates/authority/config"
	"github.com/smallstep/certificates/ca"
	_ "github.com/smallstep/certificates/cas/softcas"
)

const (
	password = "correct horse"
	// authorities is a template by which a provisioner makes authorities that have none below.
	authorities = `{"subject": {{ toJson .Subject }}, "keyUsage": ["certSign", "crlSign"], "basicConstraints": {"isCA": true, "maxPathLen": 0}}`
)

func main() {
	if err := run(os.Args[1], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "stepca:", err)
		os.Exit(1)
	}
}

func run(dir string, in io.Reader, out io.Writer) error {
	file := filepath.Join(dir, "ca.json")
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		if err := setUp(dir, file); err != nil {
			return err
		}
	}
	cfg, err := config.LoadConfiguration(file)
	if err != nil {
		return err
	}
	server, err := ca.New(cfg, ca.WithConfigFile(file))
	if err != nil {
		return err
	}
	go func() {
		for {
			if conn, err := net.Dial("tcp", cfg.Address); err == nil {
				conn.Close()
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		fmt.Fprintln(out, "https://"+cfg.Address)
		_, _ = io.Copy(io.Discard, in) // until whoever started this ends
		os.Exit(0)
	}()
	return server.Run()
}
