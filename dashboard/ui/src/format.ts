import type { Timestamp } from "@bufbuild/protobuf/wkt";

/** The last segment of a resource name. */
export function base(name: string): string {
  return name.slice(name.lastIndexOf("/") + 1);
}

/** An instant in ms since 1970. */
export function millis(t: Timestamp | undefined): number | undefined {
  return t === undefined ? undefined : Number(t.seconds) * 1000 + t.nanos / 1e6;
}

/** A duration in its two largest units: "3m 12s", "2d 4h". */
export function duration(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m ${s % 60}s`;
  if (s < 86400) return `${Math.floor(s / 3600)}h ${Math.floor((s % 3600) / 60)}m`;
  return `${Math.floor(s / 86400)}d ${Math.floor((s % 86400) / 3600)}h`;
}

/** Octets with a binary unit: "12.4 MiB". */
export function octets(n: bigint): string {
  let v = Number(n);
  if (v < 1024) return `${v} B`;
  let unit = -1;
  // Rounded as it will be shown, so that nothing reads "1024.0 KiB".
  while (Number(v.toFixed(1)) >= 1024 && unit < 5) {
    v /= 1024;
    unit++;
  }
  return `${v.toFixed(1)} ${"KMGTPE"[unit]}iB`;
}

/**
 * The time of day of an instant, in UTC: an operations room compares it with
 * logs, and with rooms elsewhere.
 */
export function clock(ms: number): string {
  return `${new Date(ms).toISOString().slice(11, 19)}Z`;
}

/** The date and time of an instant, in UTC. */
export function dateTime(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 10)} ${clock(ms)}`;
}
