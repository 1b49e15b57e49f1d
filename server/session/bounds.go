package session

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/swanherd/swanherd/proto/digest"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// What an edge says of itself is stored, shown to every viewer, and planned
// with: an edge gone wrong must not make the whole fleet pay. Each message passes
// bound, and each of its fields has its limit there:
//
//   - Words are cut to what a person reads, and names to what a name can be: a name
//     that is cut names nothing. Lists are cut to as many as there can be.
//   - A value that an enumeration does not have is unspecified, a time that no clock
//     shows is left out, and a number that is none is zero: an agent may be newer.
//   - What the controller acts by, and what it cannot mean when it is cut, ends the
//     session with INVALID_ARGUMENT: digests, uplinks, stages of an answer, kinds of
//     drift.
//   - The output of a job is no longer what it was when it is cut: the job fails.
//
// Unknown fields do not come this far, and neither does a message of too many parts:
// see access.Codec.
const (
	// maxWord bounds a version, an interface and the like in octets.
	maxWord = 64
	// maxName bounds the name of a resource, a field or an endpoint.
	maxName = 512
	// maxText bounds an explanation.
	maxText = 1024
	// maxLine bounds a suite of algorithms, a traffic selector, or the name of a job.
	maxLine = 256
	// maxOutput bounds what a job brings.
	maxOutput = 512 << 10
	// maxReport bounds the SAs that a tunnel has at one end, as text. A hub that carries
	// the traffic of ten thousand sites has about half of it.
	maxReport = 512 << 10

	// maxUplinks bounds the WAN attachments of an edge; every pair of two edges'
	// is a tunnel.
	maxUplinks = 16
	// maxAddresses bounds the addresses of an uplink.
	maxAddresses = 16
	// maxTunnels bounds the tunnels in one message. An agent says no more than
	// 1 MiB at a time.
	maxTunnels = 32768
	// maxChildren bounds the Child SAs of a tunnel, old ones included while they are
	// rekeyed.
	maxChildren = 1024
	// maxSelectors is how many a payload holds (RFC 7296, Section 3.13).
	maxSelectors = 255
	// maxOffers bounds the proposals or selectors of an end that an error names.
	maxOffers = 16
	// maxViolations is how many limits an SLA has.
	maxViolations = 3
	// maxClasses is how many classes of traffic a network has.
	maxClasses = 16
	// maxErrors bounds the resources that a Nack names.
	maxErrors = 64
	// maxAwaited bounds the tunnels that an edge says it waits for.
	maxAwaited = 64
	// maxHops and maxFailures bound the results of jobs.
	maxHops     = 64
	maxFailures = 100
)

// clip cuts s to at most n octets, of which the last are a mark.
func clip(s string, n int) string {
	const mark = "..."
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-len(mark)], "") + mark
}

// clipTo clips each of the texts.
func clipTo(n int, texts ...*string) {
	for _, s := range texts {
		*s = clip(*s, n)
	}
}

// clipAll clips a list of texts to most of n octets each.
func clipAll(list *[]string, most, n int) {
	cut(list, most)
	for i, s := range *list {
		(*list)[i] = clip(s, n)
	}
}

// cut leaves the first of a list; nothing keeps the others.
func cut[T any](list *[]T, most int) {
	if len(*list) > most {
		*list = slices.Clone((*list)[:most])
	}
}

// known clears a value that an enumeration does not have.
func known[E ~int32](e *E, names map[int32]string) {
	if _, ok := names[int32(*e)]; !ok {
		*e = 0
	}
}

// shown leaves out times that no clock shows, which have no form in JSON.
func shown(times ...**timestamppb.Timestamp) {
	for _, t := range times {
		if *t != nil && !(*t).IsValid() {
			*t = nil
		}
	}
}

// lasting leaves out durations likewise.
func lasting(durations ...**durationpb.Duration) {
	for _, d := range durations {
		if *d != nil && !(*d).IsValid() {
			*d = nil
		}
	}
}

// finite clears a number that is none.
func finite(numbers ...*float64) {
	for _, n := range numbers {
		if math.IsNaN(*n) || math.IsInf(*n, 0) {
			*n = 0
		}
	}
}

// bound holds what an edge says to what there can be of it. Its error is a gRPC status.
func bound(m *swanherdv1.EdgeMessage) error {
	switch m := m.GetMessage().(type) {
	case *swanherdv1.EdgeMessage_Hello:
		return boundHello(m.Hello)
	case *swanherdv1.EdgeMessage_Ack:
		if _, ok := swanherdv1.Ack_Stage_name[int32(m.Ack.GetStage())]; !ok {
			return status.Errorf(codes.InvalidArgument, "an answer of stage %d, which is none", m.Ack.GetStage())
		}
		clipAll(&m.Ack.AwaitedTunnels, maxAwaited, maxName)
		return boundApplied(m.Ack.GetRunning())
	case *swanherdv1.EdgeMessage_Nack:
		return boundNack(m.Nack)
	case *swanherdv1.EdgeMessage_Reverted:
		return boundReverted(m.Reverted)
	case *swanherdv1.EdgeMessage_Status:
		boundStatus(m.Status)
	case *swanherdv1.EdgeMessage_Counters:
		boundCounters(m.Counters)
	case *swanherdv1.EdgeMessage_Uplinks:
		return boundUplinks(m.Uplinks.GetUplinks())
	case *swanherdv1.EdgeMessage_Drift:
		return boundDrift(m.Drift)
	case *swanherdv1.EdgeMessage_RedirectResult:
		clipAll(&m.RedirectResult.Endpoints, maxOffers, maxName)
		clipTo(maxText, &m.RedirectResult.Message)
	case *swanherdv1.EdgeMessage_CommandResult:
		clipTo(maxText, &m.CommandResult.Error)
	case *swanherdv1.EdgeMessage_JobReport:
		boundJob(m.JobReport)
	case *swanherdv1.EdgeMessage_Ping:
		shown(&m.Ping.SendTime)
		lasting(&m.Ping.RoundTrip)
	}
	return nil
}

func boundHello(h *swanherdv1.Hello) error {
	clipTo(maxWord, &h.AgentVersion, &h.DataPlane, &h.BootId)
	clipAll(&h.AwaitedTunnels, maxAwaited, maxName)
	if err := boundApplied(h.GetApplied()); err != nil {
		return err
	}
	if err := boundReverted(h.GetReverted()); err != nil {
		return err
	}
	return boundUplinks(h.GetUplinks())
}

func boundApplied(a *swanherdv1.AppliedIntent) error {
	if a == nil {
		return nil
	}
	clipTo(maxWord, &a.Epoch)
	return boundDigest(a.GetSetDigest())
}

// boundDigest takes shorter ones: they are of nothing that the controller knows.
func boundDigest(b []byte) error {
	if len(b) > digest.VersionSize {
		return status.Errorf(codes.InvalidArgument, "a digest of %d octets; one has %d", len(b), digest.VersionSize)
	}
	return nil
}

func boundReverted(r *swanherdv1.Reverted) error {
	if r == nil {
		return nil
	}
	known(&r.Reason, swanherdv1.Reverted_Reason_name)
	clipAll(&r.AwaitedTunnels, maxAwaited, maxName)
	if err := boundDigest(r.GetSetDigest()); err != nil {
		return err
	}
	return boundApplied(r.GetRunning())
}

func boundNack(n *swanherdv1.Nack) error {
	known(&n.Code, swanherdv1.Nack_Code_name)
	cut(&n.Errors, maxErrors)
	for _, e := range n.GetErrors() {
		clipTo(maxName, &e.Resource, &e.FieldPath)
		clipTo(maxText, &e.Message)
	}
	return boundApplied(n.GetRunning())
}

func boundDrift(d *swanherdv1.DriftReport) error {
	if _, ok := swanherdv1.DriftReport_Kind_name[int32(d.GetKind())]; !ok || d.GetKind() == 0 {
		return status.Errorf(codes.InvalidArgument, "drift of kind %d, which is none", d.GetKind())
	}
	clipTo(maxWord, &d.Subject)
	clipTo(maxText, &d.Message)
	shown(&d.Time)
	return nil
}

// boundUplinks refuses more than an edge can have. The rules of the message
// hold each of them to its form.
func boundUplinks(uplinks []*swanherdv1.Uplink) error {
	if len(uplinks) > maxUplinks {
		return status.Errorf(codes.InvalidArgument, "%d uplinks; report at most %d", len(uplinks), maxUplinks)
	}
	seen := map[string]bool{}
	for _, u := range uplinks {
		switch {
		case len(u.GetName()) > maxWord:
			return status.Errorf(codes.InvalidArgument, "the name of an uplink has more than %d octets", maxWord)
		case seen[u.GetName()]:
			return status.Errorf(codes.InvalidArgument, "two uplinks have the name %q; give each its own", u.GetName())
		case len(u.GetInterface()) > maxWord:
			return status.Errorf(codes.InvalidArgument, "the interface of uplink %q has more than %d octets", u.GetName(), maxWord)
		case len(u.GetAddresses()) > maxAddresses:
			return status.Errorf(codes.InvalidArgument, "uplink %q has %d addresses; report at most %d", u.GetName(), len(u.GetAddresses()), maxAddresses)
		}
		for _, a := range u.GetAddresses() { // a zone may be of any length
			if len(a) > maxWord {
				return status.Errorf(codes.InvalidArgument, "an address of uplink %q has more than %d octets", u.GetName(), maxWord)
			}
		}
		known(&u.TransportClass, swanherdv1.TransportClass_name)
		cut(&u.Nats, maxAddresses)
		for _, n := range u.GetNats() {
			clipTo(maxWord, &n.Address, &n.MappedAddress)
			known(&n.Mapping, swanherdv1.NatMapping_name)
		}
		seen[u.GetName()] = true
	}
	return nil
}

// boundStatus is on the path of every report: nothing is allocated where nothing is
// wrong.
func boundStatus(r *swanherdv1.StatusReport) {
	cut(&r.Tunnels, maxTunnels)
	for _, t := range r.GetTunnels() {
		boundReport(t)
	}
	clipAll(&r.Removed, maxTunnels, maxName)
}

func boundReport(t *swanherdv1.TunnelReport) {
	clipTo(maxName, &t.Tunnel)
	clipTo(maxWord, &t.LocalEndpoint, &t.RemoteEndpoint)
	known(&t.State, swanherdv1.TunnelState_name)
	shown(&t.StateTime, &t.NextAttemptTime)
	if sa := t.GetIkeSa(); sa != nil {
		boundIKE(sa)
	}
	cut(&t.ChildSas, maxChildren)
	octets := 0
	for i, sa := range t.GetChildSas() {
		if octets += boundChild(sa); octets > maxReport {
			cut(&t.ChildSas, i)
			break
		}
	}
	if e := t.GetLastError(); e != nil {
		boundError(e)
	}
	if p := t.GetPathMtu(); p != nil {
		clipTo(maxWord, &p.Search)
	}
	boundQuality(t.GetQuality())
	cut(&t.SlaViolations, maxViolations)
	for _, v := range t.GetSlaViolations() {
		known(&v.Metric, swanherdv1.SlaMetric_name)
		finite(&v.Measured, &v.Limit)
		shown(&v.StartTime)
	}
	if u := t.GetUse(); u != nil {
		clipAll(&u.Classes, maxClasses, maxWord)
		clipTo(maxWord, &u.Cause)
		clipTo(maxText, &u.Reason)
		shown(&u.Since)
	}
}

func boundIKE(sa *swanherdv1.IkeSa) {
	clipTo(maxWord, &sa.InitiatorSpi, &sa.ResponderSpi, &sa.RemoteAuth)
	clipTo(maxLine, &sa.Suite)
	clipTo(maxText, &sa.LocalId, &sa.RemoteId)
	shown(&sa.EstablishedTime, &sa.RekeyTime)
}

// boundChild returns about how many octets the text of the SA has.
func boundChild(sa *swanherdv1.ChildSa) int {
	clipTo(maxWord, &sa.Name, &sa.SpiIn, &sa.SpiOut, &sa.Mode)
	clipTo(maxLine, &sa.Suite)
	shown(&sa.EstablishedTime, &sa.RekeyTime)
	octets := len(sa.GetName()) + len(sa.GetSpiIn()) + len(sa.GetSpiOut()) + len(sa.GetMode()) + len(sa.GetSuite())
	for _, list := range []*[]string{&sa.LocalTs, &sa.RemoteTs} {
		clipAll(list, maxSelectors, maxLine)
		for _, s := range *list {
			octets += len(s)
		}
	}
	return octets
}

func boundError(e *swanherdv1.TunnelError) {
	clipTo(maxWord, &e.Code, &e.Exchange, &e.Payload, &e.Notify, &e.Child)
	clipTo(maxText, &e.Message, &e.Remedy)
	clipAll(&e.Ours, maxOffers, maxText)
	clipAll(&e.Theirs, maxOffers, maxText)
	known(&e.Kind, swanherdv1.TunnelErrorKind_name)
	shown(&e.Time)
}

// boundQuality has no more lost than was sent.
func boundQuality(q *swanherdv1.PathQuality) {
	if q == nil {
		return
	}
	q.WindowLost = min(q.GetWindowLost(), q.GetWindowProbes())
	q.WindowLostOut = min(q.GetWindowLostOut(), q.GetWindowProbes())
	q.WindowLostIn = min(q.GetWindowLostIn(), q.GetWindowProbes())
}

func boundCounters(r *swanherdv1.CounterReport) {
	cut(&r.Tunnels, maxTunnels)
	for _, t := range r.GetTunnels() {
		clipTo(maxName, &t.Tunnel)
		cut(&t.Children, maxChildren)
		for _, c := range t.GetChildren() {
			clipTo(maxWord, &c.SpiIn)
		}
		boundQuality(t.GetQuality())
	}
}

func boundJob(r *swanherdv1.JobReport) {
	clipTo(maxLine, &r.Job)
	clipTo(maxText, &r.Error)
	if n := len(r.GetOutput()); n > maxOutput {
		r.Output = nil
		r.Error = fmt.Sprintf("it brought %d octets, and %d at most are kept: ask for less", n, maxOutput)
	}
	switch result := r.GetResult().(type) {
	case *swanherdv1.JobReport_PingResult:
		p := result.PingResult
		clipTo(maxLine, &p.LastError)
		lasting(&p.Min, &p.Mean, &p.Max)
	case *swanherdv1.JobReport_TraceResult:
		cut(&result.TraceResult.Hops, maxHops)
		for _, h := range result.TraceResult.GetHops() {
			clipTo(maxWord, &h.Address)
			clipTo(maxLine, &h.Error)
			lasting(&h.RoundTrip)
		}
	case *swanherdv1.JobReport_TunnelsResult:
		cut(&result.TunnelsResult.Failures, maxFailures)
		for _, f := range result.TunnelsResult.GetFailures() {
			clipTo(maxName, &f.Tunnel)
			clipTo(maxText, &f.Error)
		}
	}
}
