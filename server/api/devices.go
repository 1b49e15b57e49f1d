package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	storev1 "github.com/swanherd/swanherd/proto/swanherd/store/v1"
	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
	"github.com/swanherd/swanherd/server/model"
	"github.com/swanherd/swanherd/server/store"
)

// Devices implements DeviceService.
type Devices struct {
	swanherdv1.UnimplementedDeviceServiceServer

	store *store.Store
	valid protovalidate.Validator
}

// NewDevices returns the service.
func NewDevices(s *store.Store) (*Devices, error) {
	v, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("make a validator: %w", err)
	}
	return &Devices{store: s, valid: v}, nil
}

// deviceSerialName is the name of the record that makes a serial number unique.
// Vendors print them in either case.
func deviceSerialName(serial string) string { return "deviceSerials/" + strings.ToLower(serial) }

// CreateDevice implements DeviceService.
func (s *Devices) CreateDevice(ctx context.Context, req *swanherdv1.CreateDeviceRequest) (*swanherdv1.Device, error) {
	network, err := model.ParseNetworkName(req.GetParent())
	if err != nil {
		return nil, access.Invalid("parent", err.Error())
	}
	want := req.GetDevice()
	if err := s.checkSite(ctx, network, want.GetSite()); err != nil {
		return nil, err
	}
	name := model.DeviceName{Network: network.Network, Device: "d" + newUID()}
	device := &swanherdv1.Device{
		Name:           name.String(),
		SerialNumber:   want.GetSerialNumber(),
		Site:           want.GetSite(),
		EdgeId:         want.GetEdgeId(),
		Description:    want.GetDescription(),
		KeyFingerprint: want.GetKeyFingerprint(),
		EkFingerprint:  want.GetEkFingerprint(),
		CreateTime:     timestamppb.New(time.Now()),
	}
	out, err := committed(ctx, s.store, req, func() (*swanherdv1.Device, *store.Txn, error) {
		serial := deviceSerialName(device.GetSerialNumber())
		if _, ok := s.store.Snapshot().DeviceSerials.Get(serial); ok {
			return nil, nil, s.registered(ctx, device.GetSerialNumber())
		}
		t := s.store.Txn()
		s.store.Sites.RequireIn(t, device.GetSite(), store.AnyRevision)
		s.store.DeviceSerials.CreateIn(t, serial, &storev1.DeviceSerial{Name: serial, Device: name.String()})
		s.store.Devices.CreateIn(t, name.String(), device)
		s.store.AppendEventIn(t, network, access.Audit(access.PrincipalFrom(ctx).Actor, name.String(), "device.create",
			fmt.Sprintf("%s for %s", device.GetSerialNumber(), device.GetSite())))
		return device, t, nil
	})
	if errors.Is(err, store.ErrExists) {
		return nil, s.registered(ctx, device.GetSerialNumber())
	}
	return out, access.StoreError(err)
}

// checkSite says why a device of the network may not be for that site.
func (s *Devices) checkSite(ctx context.Context, network model.NetworkName, name string) error {
	site, err := model.ParseSiteName(name)
	if err != nil {
		return access.Invalid("device.site", err.Error())
	}
	if site.Network != network.Network {
		return access.Invalid("device.site", fmt.Sprintf("%s is not a site of %s", site, network))
	}
	if scope := scopeOf(ctx, s.store.Snapshot()); !scope.Changes(name) {
		return scope.Denied(name)
	}
	return nil
}

// registered says that a serial number is taken, and by what if the caller may see that.
func (s *Devices) registered(ctx context.Context, serial string) error {
	snap := s.store.Snapshot()
	name := snap.DeviceSerials.Value(deviceSerialName(serial)).GetDevice()
	if !scopeOf(ctx, snap).Sees(name) {
		name = "a device"
	}
	return status.Errorf(codes.AlreadyExists, "%s is registered with serial number %s already", name, serial)
}

// GetDevice implements DeviceService.
func (s *Devices) GetDevice(_ context.Context, req *swanherdv1.GetDeviceRequest) (*swanherdv1.Device, error) {
	if _, err := model.ParseDeviceName(req.GetName()); err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	row, ok := s.store.Snapshot().Devices.Get(req.GetName())
	if !ok {
		return nil, notThere(req.GetName())
	}
	return shown(row), nil
}

// ListDevices implements DeviceService.
func (s *Devices) ListDevices(ctx context.Context, req *swanherdv1.ListDevicesRequest) (*swanherdv1.ListDevicesResponse, error) {
	out, next, err := listRows(ctx, s.store, req, func(snap *store.Snapshot) model.Table[*swanherdv1.Device] { return snap.Devices },
		func(_ *store.Snapshot, row model.Row[*swanherdv1.Device]) *swanherdv1.Device { return shown(row) })
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListDevicesResponse{Devices: out, NextPageToken: next}, nil
}

// UpdateDevice implements DeviceService.
func (s *Devices) UpdateDevice(ctx context.Context, req *swanherdv1.UpdateDeviceRequest) (*swanherdv1.Device, error) {
	name, err := model.ParseDeviceName(req.GetDevice().GetName())
	if err != nil {
		return nil, access.Invalid("device.name", err.Error())
	}
	var serial string
	out, err := committed(ctx, s.store, req, func() (*swanherdv1.Device, *store.Txn, error) {
		row, err := s.store.Devices.Get(ctx, name.String())
		if err != nil {
			return nil, nil, err
		}
		next, err := changed(row, req.GetDevice(), req.GetDevice().GetEtag(), req.GetUpdateMask())
		if err != nil {
			return nil, nil, err
		}
		serial = next.GetSerialNumber()
		if err := s.mayBecome(ctx, name, row.Value, next); err != nil {
			return nil, nil, err
		}
		t := s.store.Txn()
		s.store.Sites.RequireIn(t, next.GetSite(), store.AnyRevision)
		s.store.Devices.UpdateIn(t, row.Name, next, row.Revision)
		if was := deviceSerialName(row.Value.GetSerialNumber()); was != deviceSerialName(serial) {
			s.store.DeviceSerials.DropIn(t, was)
			s.store.DeviceSerials.CreateIn(t, deviceSerialName(serial), &storev1.DeviceSerial{Name: deviceSerialName(serial), Device: row.Name})
		}
		s.store.AppendEventIn(t, model.NetworkName{Network: name.Network},
			access.Audit(access.PrincipalFrom(ctx).Actor, row.Name, "device.update", changedFields(row.Value, next)))
		return next, t, nil
	})
	if errors.Is(err, store.ErrExists) {
		return nil, s.registered(ctx, serial)
	}
	return out, access.StoreError(err)
}

// mayBecome says why a device may not be changed like this.
func (s *Devices) mayBecome(ctx context.Context, name model.DeviceName, was, next *swanherdv1.Device) error {
	if wrong := mistakes(s.valid, "device", next); len(wrong) > 0 {
		return access.InvalidAll(wrong)
	}
	if fields := model.ChangedFields(was, next); was.GetEdge() != "" && slices.ContainsFunc(fields, func(f string) bool { return f != "description" }) {
		return status.Errorf(codes.FailedPrecondition, "%s has become %s; only its description can change now: move or revoke the edge, or register another device", name, was.GetEdge())
	}
	if err := s.checkSite(ctx, model.NetworkName{Network: name.Network}, next.GetSite()); err != nil {
		return err
	}
	serial := deviceSerialName(next.GetSerialNumber())
	if other, ok := s.store.Snapshot().DeviceSerials.Get(serial); ok && other.Value.GetDevice() != name.String() {
		return s.registered(ctx, next.GetSerialNumber())
	}
	return nil
}

// DeleteDevice implements DeviceService.
func (s *Devices) DeleteDevice(ctx context.Context, req *swanherdv1.DeleteDeviceRequest) (*emptypb.Empty, error) {
	name, err := model.ParseDeviceName(req.GetName())
	if err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	out, err := committed(ctx, s.store, req, func() (*emptypb.Empty, *store.Txn, error) {
		row, err := s.store.Devices.Get(ctx, name.String())
		if err != nil {
			return nil, nil, err
		}
		if err := checkETag(row.Name, req.GetEtag(), row.Revision); err != nil {
			return nil, nil, err
		}
		t := s.store.Txn()
		s.store.Devices.DeleteIn(t, row.Name, row.Revision)
		s.store.DeviceSerials.DropIn(t, deviceSerialName(row.Value.GetSerialNumber()))
		s.store.AppendEventIn(t, model.NetworkName{Network: name.Network},
			access.Audit(access.PrincipalFrom(ctx).Actor, name.String(), "device.delete", row.Value.GetSerialNumber()))
		return &emptypb.Empty{}, t, nil
	})
	return out, access.StoreError(err)
}

// GetEnrollmentRequest implements DeviceService.
func (s *Devices) GetEnrollmentRequest(_ context.Context, req *swanherdv1.GetEnrollmentRequestRequest) (*swanherdv1.EnrollmentRequest, error) {
	if _, err := model.ParseEnrollmentRequestName(req.GetName()); err != nil {
		return nil, access.Invalid("name", err.Error())
	}
	row, ok := s.store.Snapshot().EnrollmentRequests.Get(req.GetName())
	if !ok {
		return nil, notThere(req.GetName())
	}
	return row.Value.GetRequest(), nil
}

// ListEnrollmentRequests implements DeviceService.
func (s *Devices) ListEnrollmentRequests(ctx context.Context, req *swanherdv1.ListEnrollmentRequestsRequest) (*swanherdv1.ListEnrollmentRequestsResponse, error) {
	out, next, err := listRows(ctx, s.store, req, func(snap *store.Snapshot) model.Table[*storev1.EnrollmentRequest] { return snap.EnrollmentRequests },
		func(_ *store.Snapshot, row model.Row[*storev1.EnrollmentRequest]) *swanherdv1.EnrollmentRequest {
			return row.Value.GetRequest()
		})
	if err != nil {
		return nil, err
	}
	return &swanherdv1.ListEnrollmentRequestsResponse{EnrollmentRequests: out, NextPageToken: next}, nil
}

// ApproveEnrollmentRequest implements DeviceService.
func (s *Devices) ApproveEnrollmentRequest(ctx context.Context, req *swanherdv1.ApproveEnrollmentRequestRequest) (*swanherdv1.EnrollmentRequest, error) {
	return s.decide(ctx, req, swanherdv1.EnrollmentRequest_STATE_APPROVED, "enrollment.approve")
}

// DenyEnrollmentRequest implements DeviceService.
func (s *Devices) DenyEnrollmentRequest(ctx context.Context, req *swanherdv1.DenyEnrollmentRequestRequest) (*swanherdv1.EnrollmentRequest, error) {
	return s.decide(ctx, req, swanherdv1.EnrollmentRequest_STATE_DENIED, "enrollment.deny")
}
