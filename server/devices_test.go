package server_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

// A device that was registered is sent to another site, or has another number than the
// order said; once it is an edge, it is what it is.
func TestDevicesAreChanged(t *testing.T) {
	c := startController(t)
	c.apply()
	ctx, devices := t.Context(), c.devices()
	register := func(serial string) *swanherdv1.Device {
		d, err := devices.CreateDevice(ctx, &swanherdv1.CreateDeviceRequest{Parent: "networks/demo", Device: &swanherdv1.Device{
			SerialNumber: serial, Site: "networks/demo/sites/berlin", KeyFingerprint: strings.Repeat("0", 64),
		}})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d, other := register("SN-1"), register("SN-2")
	update := func(want *swanherdv1.Device, paths ...string) (*swanherdv1.Device, error) {
		want.Name = d.GetName()
		return devices.UpdateDevice(ctx, &swanherdv1.UpdateDeviceRequest{Device: want, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
	}
	refused := func(what string, err error, code codes.Code, words string) {
		t.Helper()
		if status.Code(err) != code || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v, want %v with %q", what, err, code, words)
		}
	}
	got, err := update(&swanherdv1.Device{Site: "networks/demo/sites/oslo", Etag: d.GetEtag()})
	if err != nil || got.GetSite() != "networks/demo/sites/oslo" || got.GetSerialNumber() != "SN-1" || got.GetEtag() == d.GetEtag() {
		t.Fatalf("another site: %v, %v", got, err)
	}
	_, err = update(&swanherdv1.Device{Site: "networks/demo/sites/rome", Etag: d.GetEtag()})
	refused("an older version", err, codes.Aborted, "etag")
	_, err = devices.DeleteDevice(ctx, &swanherdv1.DeleteDeviceRequest{Name: d.GetName(), Etag: d.GetEtag()})
	refused("deletion of an older version", err, codes.Aborted, "etag")
	_, err = update(&swanherdv1.Device{SerialNumber: "sn-2"})
	refused("a number that is taken", err, codes.AlreadyExists, other.GetName())
	_, err = update(&swanherdv1.Device{SerialNumber: "no number"})
	refused("no number", err, codes.InvalidArgument, "device.serial_number")
	_, err = update(&swanherdv1.Device{}, "site")
	refused("no site", err, codes.InvalidArgument, "device.site")
	_, err = update(&swanherdv1.Device{Site: "networks/demo/sites/paris"})
	refused("no such site", err, codes.NotFound, "sites/paris does not exist")
	if got, err = update(&swanherdv1.Device{SerialNumber: "SN-3"}, "serial_number", "key_fingerprint"); err != nil || got.GetSerialNumber() != "SN-3" || got.GetKeyFingerprint() != "" {
		t.Fatalf("another number, without a key: %v, %v", got, err)
	}
	register("SN-1") // which is free again

	resp, err := c.newEdge().tryEnrollSerial("SN-3")
	if err != nil {
		t.Fatal(err)
	}
	request := resp.GetPending().GetEnrollmentRequest()
	if r, err := devices.GetEnrollmentRequest(ctx, &swanherdv1.GetEnrollmentRequestRequest{Name: request}); err != nil || r.GetSerialNumber() != "SN-3" || r.GetSite() != "networks/demo/sites/oslo" {
		t.Errorf("the request is %v, %v", r, err)
	}
}

func TestDevicesThatAreEdgesStayWhatTheyAre(t *testing.T) {
	c := startController(t)
	c.apply()
	d, err := c.devices().CreateDevice(t.Context(), &swanherdv1.CreateDeviceRequest{Parent: "networks/demo", Device: &swanherdv1.Device{
		SerialNumber: "SN-1", Site: "networks/demo/sites/berlin",
	}})
	if err != nil {
		t.Fatal(err)
	}
	e := c.newEdge()
	resp, err := e.tryEnrollSerial("SN-1")
	if err != nil {
		t.Fatal(err)
	}
	request := resp.GetPending().GetEnrollmentRequest()
	if _, err := c.devices().ApproveEnrollmentRequest(t.Context(), &swanherdv1.ApproveEnrollmentRequestRequest{Name: request}); err != nil {
		t.Fatal(err)
	}
	if resp, err = e.poll(request); err != nil || resp.GetEdge() == "" {
		t.Fatalf("the approved device: %v, %v", resp, err)
	}
	x := c.terminal()
	x.says(3, "", "device update SN-1 --site oslo", "only its description can change")
	x.says(0, "", "device update SN-1 --description spare", "changed: description")
	x.says(64, "", "device update SN-1", "give what is to change")
	x.says(0, "", "get device "+d.GetName(), "SN-1", "spare")
	x.says(0, "", "get enrollmentrequests --filter state=APPROVED", "SN-1")
	x.says(0, "", "get enrollmentrequest "+request, "SN-1")
}

// Everything that there is can be listed, filtered and named with the same commands.
func TestEveryKindIsListedAndNamed(t *testing.T) {
	c := startController(t)
	s := c.populated("networks/demo")
	x := c.terminal()
	certificate := s.ids["certificate"]
	for kind, name := range map[string]string{
		"alert": s.alert(t), "changeset": s.ids["change_set"], "rollout": s.ids["rollout"], "device": s.ids["device"],
		"enrollmenttoken": s.ids["enrollment_token"], "enrollmentrequest": s.ids["enrollment_request"],
		"user": s.ids["user"], "rolebinding": s.ids["role_binding"], "apitoken": s.ids["api_token"],
		"certificate": certificateEdge(t, c, certificate) + "/" + certificate,
	} {
		id := name[strings.LastIndexByte(name, '/')+1:]
		x.says(0, "", "get "+kind+" "+name+" -o json", id)
		x.says(0, "", "get "+kind+"s -o json", id)
		x.says(0, "", "get "+kind+"s -o json --filter name=nothing", "!"+id)
		x.says(4, "", "get "+kind+" "+strings.TrimSuffix(name, id)+"nothing", "does not exist")
	}
	x.says(64, "", "get certificate "+certificate, "name it with what it is of")
	x.says(64, "", "delete certificate x/y", "are not deleted with this command")
}

// certificateEdge is the id of the edge that has the certificate.
func certificateEdge(t *testing.T, c *controller, serial string) string {
	t.Helper()
	list, err := c.certificates().ListCertificates(t.Context(), &swanherdv1.ListCertificatesRequest{Parent: "networks/demo", Filter: fmt.Sprintf("serial = %q", serial)})
	if err != nil || len(list.GetCertificates()) != 1 {
		t.Fatalf("the certificate is %v, %v", list, err)
	}
	name := list.GetCertificates()[0].GetEdge()
	return name[strings.LastIndexByte(name, '/')+1:]
}
