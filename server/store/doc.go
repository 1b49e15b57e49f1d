// Package store keeps the controller's durable state in etcd, which is the
// only place where it is.
//
// It owns the key layout, optimistic concurrency by modification revision,
// transactions over several collections, the encryption of secrets at rest, the
// event log, and a watch cache: one prefix watch per process into an immutable
// Snapshot. It never decides what may be stored; package model does.
//
// Values are protobuf messages below the prefix /swanherd/v1/:
//
//	networks/{network}                     swanherd.v1.Network
//	sites/{network}/{site}                 swanherd.v1.Site
//	meshes/{network}/{mesh}                swanherd.v1.Mesh
//	profiles/{network}/{profile}           swanherd.v1.Profile
//	segments/{network}/{segment}           swanherd.v1.Segment
//	gateways/{network}/{gateway}           swanherd.v1.Gateway
//	assertions/{network}/{assertion}       swanherd.v1.Assertion
//	pre_shared_keys/{network}/{key}        store.v1.PreSharedKey
//	edges/{network}/{edge}                 swanherd.v1.Edge, without uplinks and status
//	edge_status/{network}/{edge}           store.v1.EdgeStatus
//	edge_identities/{network}/{edge}       store.v1.EdgeIdentity
//	enrollment_tokens/{network}/{token}    store.v1.EnrollmentToken
//	api_tokens/{token}                     store.v1.ApiToken
//	role_bindings/{role_binding}           swanherd.v1.RoleBinding
//	login_links/{hash}                     store.v1.LoginLink
//	cas/controller, cas/networks/{network} store.v1.CertificateAuthority
//	revocations/{network}/{serial}         store.v1.Revocation
//	enrollment_requests/{network}/{key}    store.v1.EnrollmentRequest
//	devices/{network}/{device}             swanherd.v1.Device
//	device_serials/{serial}                store.v1.DeviceSerial
//	data_keys/all                          store.v1.DataKeys
//	expiry_checks/last                     store.v1.ExpiryCheck
//	alert_rules/{network}/{rule}           swanherd.v1.AlertRule; network - for the whole fleet
//	alert_defaults/{rule}                  store.v1.AlertDefaults
//	alerts/{network}/{alert}               swanherd.v1.Alert, one that fires or was resolved
//	webhook_sinks/{network}/{sink}         store.v1.WebhookSink
//	webhook_deliveries/{network}/{sink}/{id}  store.v1.WebhookDelivery
//	token_uses/{token}                     store.v1.TokenUse
//	events/{network}/{ulid}                swanherd.v1.Event, a transition
//	revisions/{network}/{ulid}             swanherd.store.v1.TopologyRevision
//	requests/{hash of who}/{request_id}    swanherd.store.v1.AnsweredRequest
//	change_sets/{network}/{change_set}     swanherd.v1.ChangeSet
//	rollouts/{network}/{rollout}           store.v1.Rollout
//	rollout_plans/{network}/{rollout}      store.v1.RolloutPlan, until the rollout ends
//	audit/{network}/{ulid}                 swanherd.v1.Event, what somebody did
//	audit_seals/{network}/{revision}       store.v1.AuditSeal
//	replicas/{replica}                     store.v1.Replica, under its lease
//	leader/{lease}                         the campaigns of the replicas, under their leases
//	meta/epoch                             store.v1.Epoch
//	meta/schema                            store.v1.Schema, the version of all this
//	meta/migration                         store.v1.MigrationProgress, while there is one
//
// Every exported method may be called from any goroutine, save those of Txn.
// Messages reached through a Snapshot are shared and must not be changed.
package store
