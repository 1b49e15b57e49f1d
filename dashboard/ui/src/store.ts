import { base, millis } from "./format";
import type { FleetCounts, WatchFleetResponse } from "./gen/swanherd/v1/fleet_service_pb";
import type { Edge } from "./gen/swanherd/v1/topology_pb";
import type { Tunnel } from "./gen/swanherd/v1/tunnel_pb";
import { type Look, look, type StatusKey } from "./status";

/** Silence of the stream, in ms, after which what is shown is called stale. */
export const staleAfter = 5000;

/**
 * freshness is how what is shown looks, as a class: not live when nothing is heard, and
 * without a look of health when it may not be all that there is.
 */
export function freshness(silence: number, staleSince: number | undefined): string {
  if (silence > staleAfter) return "not-live";
  return staleSince === undefined ? "" : "may-be-old";
}

/** A tunnel with what sorting and filtering need of it. */
export interface Row {
  readonly tunnel: Tunnel;
  readonly look: Look;
  /** When the status last changed, ms since 1970. */
  readonly since: number | undefined;
  /** What the text of a filter is looked for in, lower case. */
  readonly text: string;
}

/** What the list is narrowed to. It is all in the page's address. */
export interface Filter {
  /** Empty: every status. */
  statuses: StatusKey[];
  text: string;
}

/** What one stream has said. */
class Picture {
  readonly rows = new Map<string, Row>();
  readonly edges = new Map<string, Edge>();

  apply(frame: WatchFleetResponse): void {
    for (const t of frame.tunnels) this.rows.set(t.name, toRow(t));
    for (const name of frame.removedTunnels) this.rows.delete(name);
    for (const e of frame.edges) this.edges.set(e.name, e);
    for (const name of frame.removedEdges) this.edges.delete(name);
  }
}

/**
 * FleetStore is the fleet as the controller last told it. It knows nothing of
 * the network or the page: frames go in, rows come out. Times are those of the
 * controller, so that a wrong clock on the viewer's machine shows no wrong age.
 */
export class FleetStore {
  counts: FleetCounts | undefined;
  /** True once a stream has sent everything that existed at its start. */
  synced = false;
  /** The controller's build. */
  build = "";
  /** Since when the controller does not learn of changes, ms since 1970; undefined: it does. */
  staleSince: number | undefined;
  private shown = new Picture();
  /** What a new stream has said so far, while the old picture is on screen. */
  private next: Picture | undefined;
  private serverTime = 0;
  private heardAt = Number.NEGATIVE_INFINITY;

  /** apply takes one frame in; now is the viewer's monotonic clock in ms. */
  apply(frame: WatchFleetResponse, now: number): void {
    this.heardAt = now;
    this.serverTime = millis(frame.serverTime) ?? this.serverTime;
    this.staleSince = millis(frame.staleSinceTime);
    if (frame.counts) this.counts = frame.counts;
    if (frame.serverBuild) this.build = frame.serverBuild;
    (this.next ?? this.shown).apply(frame);
    if (!frame.synced) return;
    this.synced = true;
    this.shown = this.next ?? this.shown;
    this.next = undefined;
  }

  /**
   * restart prepares for a stream that begins anew. A complete picture stays
   * until the new one is complete; then what is gone is gone.
   */
  restart(): void {
    if (this.synced) this.next = new Picture();
    else this.shown = new Picture();
  }

  /** clear forgets everything, for the next person at this screen. */
  clear(): void {
    this.shown = new Picture();
    this.next = undefined;
    this.counts = undefined;
    this.synced = false;
    this.staleSince = undefined;
    this.heardAt = Number.NEGATIVE_INFINITY;
  }

  /** The controller's time now, in ms since 1970; undefined before the first frame. */
  time(now: number): number | undefined {
    return this.heardAt === Number.NEGATIVE_INFINITY ? undefined : this.serverTime + (now - this.heardAt);
  }

  /** How long nothing was heard, in ms; Infinity before the first frame. */
  silence(now: number): number {
    return now - this.heardAt;
  }

  get size(): number {
    return this.shown.rows.size;
  }

  tunnel(name: string): Tunnel | undefined {
    return this.shown.rows.get(name)?.tunnel;
  }

  /** The rows that pass the filter: problems first, then the newest change. */
  rows(filter: Filter): Row[] {
    const text = filter.text.trim().toLowerCase();
    const rows: Row[] = [];
    for (const r of this.shown.rows.values()) {
      if (filter.statuses.length > 0 && !filter.statuses.includes(r.look.key)) continue;
      if (r.text.includes(text)) rows.push(r);
    }
    return rows.sort(problemsFirst);
  }

  /** The edges without a session, longest absence first. */
  absentEdges(): Edge[] {
    const absent = [...this.shown.edges.values()].filter((e) => !e.disabled && !e.status?.connected);
    return absent.sort((a, b) => seen(a) - seen(b) || order(a.name, b.name));
  }
}

function toRow(t: Tunnel): Row {
  const ends = [t.a, t.b].flatMap((e) =>
    e ? [e.endpoint, base(e.site), base(e.edge), base(e.gateway), ...e.prefixes] : [],
  );
  return {
    tunnel: t,
    look: look(t.status),
    since: millis(t.statusTime),
    // A line each, so that no text matches across two of them.
    text: [base(t.name), t.reason, base(t.mesh), ...ends].join("\n").toLowerCase(),
  };
}

function problemsFirst(a: Row, b: Row): number {
  return a.look.rank - b.look.rank || (b.since ?? 0) - (a.since ?? 0) || order(a.tunnel.name, b.tunnel.name);
}

function seen(e: Edge): number {
  return millis(e.status?.lastSeenTime) ?? 0;
}

function order(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
