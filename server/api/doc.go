// Package api implements the controller's public services over the store:
// TopologyService, FleetService, AccessService and EnrollmentService, and their
// REST form.
//
// It owns the rules of the methods: what is created, replaced, refused, and in
// which transaction. It never decides who may call (package access does), what
// a valid topology is (package model), what follows from it (package plan), or
// what state a tunnel is in (package fleet).
//
// Methods follow the Google AIPs: 131 to 135 (standard methods), 154 (etags),
// 158 (pages), 161 (field masks), 163 (validate_only), 193 (errors).
//
// Concurrency: services may be used from any goroutine. Changes of the topology
// are made one after the other, since what makes one valid may be in another.
package api
