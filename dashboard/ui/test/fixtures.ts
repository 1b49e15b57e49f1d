import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { WatchFleetResponseSchema } from "../src/gen/swanherd/v1/fleet_service_pb";
import { TunnelSchema, TunnelStatus } from "../src/gen/swanherd/v1/tunnel_pb";

/** An instant to which the tests relate, ms since 1970. */
export const noon = Date.UTC(2026, 2, 1, 12);

/** What a test says about one end; the rest is made up. */
interface End {
  endpoint?: string;
  prefixes?: string[];
}

interface More {
  reason?: string;
  a?: End;
  b?: End;
}

function end(site: string, address: string, more: End = {}) {
  return {
    edge: `networks/demo/edges/${site}`,
    site: `networks/demo/sites/${site}`,
    endpoint: `${address}:4500`,
    ...more,
  };
}

/** tunnel between the two sites in its id, `a--b`. */
export function tunnel(id: string, status = TunnelStatus.UP, since = noon, more: More = {}) {
  const [a = "", b = ""] = id.split("--");
  return create(TunnelSchema, {
    name: `networks/demo/tunnels/${id}`,
    mesh: "networks/demo/meshes/all",
    status,
    statusTime: timestampFromMs(since),
    reason: more.reason ?? "",
    a: end(a, "192.0.2.1", more.a),
    b: end(b, "192.0.2.2", more.b),
  });
}

export function frame(more: MessageInitShape<typeof WatchFleetResponseSchema> = {}, at = noon) {
  return create(WatchFleetResponseSchema, { serverTime: timestampFromMs(at), ...more });
}
