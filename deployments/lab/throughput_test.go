package lab_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/swanherd/swanherd/deployments/lab"
)

// BenchmarkTunnel measures TCP through a tunnel between two gateways, each with
// a host behind it: our userspace ESP, and strongSwan's in the same run. Rounds
// alternate, since machines drift; the ratio of the medians is what counts.
func BenchmarkTunnel(b *testing.B) {
	lab.Require(b, append(slices.Clone(lab.CharonPrograms), "iperf3")...)
	agent := buildAgent(b)
	ours, theirs := newPair(b, 3*time.Minute), newPair(b, 3*time.Minute)
	ours.runAgents(agent)
	theirs.runCharons()
	ours.awaitPing("our tunnel")
	theirs.awaitPing("strongSwan's tunnel")
	var our, their []float64
	for b.Loop() {
		our = append(our, ours.iperf())
		their = append(their, theirs.iperf())
	}
	b.ReportMetric(median(our), "Gbit/s")
	b.ReportMetric(median(their), "strongswan-Gbit/s")
	b.ReportMetric(median(our)/median(their), "times-strongswan")
	b.ReportMetric(0, "ns/op") // the time is that of the measurement itself
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// runAgents runs our agent on both gateways, from intent files.
func (x *pair) runAgents(agent string) {
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
	}
}

// runCharons runs strongSwan on both gateways with the same algorithms.
func (x *pair) runCharons() {
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
		if side.own == "192.0.2.1" {
			if out, err := charon.Swanctl(x.ctx, "--initiate", "--child", "net", "--timeout", "10"); err != nil {
				x.t.Fatalf("initiate: %v\n%s", err, out)
			}
		}
	}
}

// iperf runs one TCP stream from host to host for three seconds and returns
// what arrived, in Gbit/s.
func (x *pair) iperf() float64 {
	x.t.Helper()
	server, err := x.theirsLAN.Start(nil, nil, "iperf3", "--server", "--one-off", "--bind", x.theirsHost.String(), "--forceflush")
	x.must(err)
	defer server.Kill()
	for !strings.Contains(server.Output(), "listening") {
		select {
		case <-x.ctx.Done():
			x.t.Fatal("iperf3 does not listen: " + server.Output())
		case <-time.After(10 * time.Millisecond):
		}
	}
	out, err := x.oursLAN.Run(x.ctx, "iperf3", "--client", x.theirsHost.String(), "--time", "3", "--omit", "1", "--json")
	x.must(err)
	var result struct {
		End struct {
			SumReceived struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	x.must(json.Unmarshal([]byte(out), &result))
	return result.End.SumReceived.BitsPerSecond / 1e9
}
