package lab_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// runAgents runs our agent on both gateways, from intent files.
func (x *pair) runAgents(agent string) (running []*lab.Program) {
	x.t.Helper()
	x.write("psk", psk)
	for _, side := range []struct {
		host                      *lab.Namespace
		own, peer, role, from, to string
	}{
		{x.ours, "192.0.2.1", "192.0.2.2", "INITIATOR", "10.1.0.0/24", "10.2.0.0/24"},
		{x.theirs, "192.0.2.2", "192.0.2.1", "RESPONDER", "10.2.0.0/24", "10.1.0.0/24"},
	} {
		intent := x.write(side.own+".yaml", fmt.Sprintf(`settings: {localPrefixes: [%[4]s]}
tunnels:
  - name: peer
    role: TUNNEL_ROLE_%[3]s
    localAddress: %[1]s
    remoteEndpoints: [{address: %[2]s, port: 4500}]
    authentication: {localId: %[1]s, remoteId: %[2]s, psk: {file: %[6]s/psk}}
    ikeProposals: [aes256gcm16-prfsha384-x25519]
    children: [{name: net, espProposals: [aes128gcm16-esn], localTs: [%[4]s], remoteTs: [%[5]s]}]
`, side.own, side.peer, side.role, side.from, side.to, x.dir))
		p, err := side.host.Start(nil, nil, agent, "run", "--intent", intent, "--state-dir", x.sub("state-"+side.own))
		x.must(err)
		x.t.Cleanup(func() { p.Stop(5 * time.Second) })
		running = append(running, p)
	}
	return running
}

// runCharons runs strongSwan on both gateways with the same algorithms.
func (x *pair) runCharons() (running []*lab.Program) {
	x.t.Helper()
	for _, side := range []struct {
		host                *lab.Namespace
		own, peer, from, to string
	}{
		{x.theirs, "192.0.2.2", "192.0.2.1", "10.2.0.0/24", "10.1.0.0/24"},
		{x.ours, "192.0.2.1", "192.0.2.2", "10.1.0.0/24", "10.2.0.0/24"},
	} {
		charon, err := lab.StartCharon(x.ctx, side.host, x.sub("charon-"+side.own), fmt.Sprintf(`connections {
  peer {
    version = 2
    local_addrs = %[1]s
    remote_addrs = %[2]s
    proposals = aes256gcm16-prfsha384-x25519
    encap = yes
    local {
      auth = psk
    }
    remote {
      auth = psk
    }
    children {
      net {
        local_ts = %[3]s
        remote_ts = %[4]s
        esp_proposals = aes128gcm16
      }
    }
  }
}
secrets {
  ike-1 {
    secret = "%[5]s"
  }
}
`, side.own, side.peer, side.from, side.to, psk))
		x.must(err)
		x.t.Cleanup(func() { charon.Stop(5 * time.Second) })
		running = append(running, charon.Program)
		if side.own == "192.0.2.1" {
			if out, err := charon.Swanctl(x.ctx, "--initiate", "--child", "net", "--timeout", "10"); err != nil {
				x.t.Fatalf("initiate: %v\n%s", err, out)
			}
		}
	}
	return running
}
