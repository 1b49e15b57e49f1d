// Package history is what the controller tells over time: how tunnels were, from series
// on its disk (Series), and of itself Prometheus metrics. Their names and labels are
// stable.
//
//	swanherd_edges{network}                               edges enrolled
//	swanherd_edges_connected{network}                     edges with a session
//	swanherd_edges_in_sync{network}                       edges that run their newest intent
//	swanherd_sites{network}                               sites
//	swanherd_sites_isolated{network}                      sites none of whose tunnels is up
//	swanherd_tunnels_sla_violated{network}                tunnels whose path is over a limit of its SLA
//	swanherd_tunnels{network,status}                      tunnels by status: up, degraded, down, negotiating, stale
//	swanherd_rollouts{network,state}                      rollouts that have not ended: running, paused, halted, reverting
//	swanherd_alerts_firing{severity}                      alerts that fire, by severity: info, warning, critical
//	swanherd_webhook_deliveries_total{result}             tries to deliver a webhook: delivered, failed, dropped
//	swanherd_stun_requests_total{result}                  datagrams that asked where they come from: answered, malformed, no_room, limited, send_failed
//	swanherd_calls_limited_total                          calls of the API refused as their principal calls too often
//	swanherd_leader                                       1 at the replica that leads
//	swanherd_replicas                                     replicas that hold a lease
//	swanherd_store_stale_seconds                          for how long what the replica knows may be old
//	swanherd_sessions                                     sessions open at this replica
//	swanherd_sessions_ended_total{code}                   sessions that ended, by gRPC code
//	swanherd_intent_updates_total{kind}                   updates sent: snapshot, delta
//	swanherd_intent_octets_total{kind}                    octets of them
//	swanherd_intent_push_seconds{kind}                    first chunk to last chunk handed to the stream
//	swanherd_intent_answer_seconds{result}                first chunk to answer: ack, nack
//	swanherd_plan_seconds                                 a change of the topology to new intents posted
//	swanherd_store_roundtrip_seconds                      a linearizable read of etcd, probed
//	grpc_server_handled_total{grpc_service,grpc_method,grpc_code,grpc_type}  calls of the API, and its companions
//	go_*, process_*                                       the process
//
// Of several replicas each knows the whole fleet: the first eight are the same at each of
// them, and not to be added up.
//
// Labels are bounded: networks are the operator's, everything else is an enum.
// There are no series per tunnel or per edge.
package history
