// Package api implements the controller's public services over the store:
// TopologyService, FleetService, AccessService, CertificateService, DeviceService
// and EnrollmentService, and the REST form of all but the last.
//
// It owns the rules of the methods: what is created, replaced, refused, and in
// which transaction. It never decides who may call (package access does), what
// a valid topology is (package model), what follows from it (package plan), or
// what state a tunnel is in (package fleet).
//
// Methods follow the Google AIPs: 131 to 135 (standard methods), 154 (etags),
// 155 (request_id), 158 (pages), 160 (filters, by package query), 161 (field
// masks), 163 (validate_only), 193 (errors). A list of what is stored is of the
// revision at which its first page was; the answer to a request with a request_id
// is stored in the transaction of its change. What no transaction does, such as a command
// to an edge, claims its answer before, and is done at most once.
//
// Watch tells of the kinds in the table watchedKinds, to whoever may list them, what differs
// between two snapshots of the store as the caller sees each.
//
// Concurrency: services may be used from any goroutine. Changes of the topology
// are made one after the other, since what makes one valid may be in another.
package api
