import { TunnelStatus } from "./gen/swanherd/v1/tunnel_pb";

/** The name of a status in addresses and style sheets. */
export type StatusKey = "down" | "degraded" | "stale" | "negotiating" | "unknown" | "up";

/** How a status looks: never by colour alone. */
export interface Look {
  key: StatusKey;
  label: string;
  /** Lower is worse; lists sort by it. */
  rank: number;
}

const looks: Record<TunnelStatus, Look> = {
  [TunnelStatus.DOWN]: { key: "down", label: "Down", rank: 0 },
  [TunnelStatus.DEGRADED]: { key: "degraded", label: "Degraded", rank: 1 },
  [TunnelStatus.STALE]: { key: "stale", label: "Stale", rank: 2 },
  [TunnelStatus.NEGOTIATING]: { key: "negotiating", label: "Negotiating", rank: 3 },
  [TunnelStatus.UNSPECIFIED]: { key: "unknown", label: "Unknown", rank: 4 },
  [TunnelStatus.UP]: { key: "up", label: "Up", rank: 5 },
};

/** look of a status; that of a newer controller, not known here, is "unknown". */
export function look(status: TunnelStatus): Look {
  return looks[status] ?? looks[TunnelStatus.UNSPECIFIED];
}

/** Every status in the order of lists, worst first. */
export const allLooks: readonly Look[] = Object.values(looks).sort((a, b) => a.rank - b.rank);

export function isStatusKey(key: string): key is StatusKey {
  return allLooks.some((l) => l.key === key);
}
