import { useEffect, useRef, useState } from "preact/hooks";
import { base, duration, millis } from "./format";
import type { FleetCounts } from "./gen/swanherd/v1/fleet_service_pb";
import type { Edge } from "./gen/swanherd/v1/topology_pb";
import { Glyph } from "./glyph";
import { allLooks, type Look } from "./status";
import type { Filter } from "./store";

interface Props {
  counts: FleetCounts | undefined;
  filter: Filter;
  /** typing is true while the text is being written. */
  onFilter: (f: Filter, typing: boolean) => void;
}

/** The controller counts what it can name; what it cannot has no count. */
const counted = allLooks.filter((l) => l.key !== "unknown");

function count(c: FleetCounts | undefined, l: Look): number | undefined {
  return l.key === "unknown" ? undefined : c?.[l.key];
}

/** Counts shows the fleet in one line; each status narrows the list to its tunnels. */
export function Counts({ counts, filter, onFilter }: Props) {
  const text = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const key = (e: KeyboardEvent) => {
      if (e.key !== "/" || e.ctrlKey || e.metaKey || e.altKey) return;
      if (e.target instanceof HTMLInputElement || document.querySelector("dialog[open]")) return;
      e.preventDefault();
      text.current?.select();
    };
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  }, []);
  const toggle = (l: Look) => {
    const on = filter.statuses.includes(l.key);
    const statuses = on ? filter.statuses.filter((s) => s !== l.key) : [...filter.statuses, l.key];
    onFilter({ ...filter, statuses }, false);
  };
  return (
    <section class="counts" aria-label="Fleet">
      <Figure label="isolated sites" value={counts?.sitesIsolated} of={counts?.sites} alarm />
      {counted.map((l) => (
        <button
          type="button"
          key={l.key}
          class={`count ${l.key} ${(count(counts, l) ?? 0) === 0 ? "zero" : ""}`}
          aria-pressed={filter.statuses.includes(l.key)}
          onClick={() => toggle(l)}
        >
          <Glyph status={l.key} />
          <b>{count(counts, l) ?? "–"}</b> <span>{l.label}</span>
        </button>
      ))}
      <Figure label="edges connected" value={counts?.edgesConnected} of={counts?.edges} />
      <Figure label="edges in sync" value={counts?.edgesInSync} of={counts?.edges} />
      <input
        ref={text}
        type="search"
        placeholder="Filter: name, site, address, reason  ( / )"
        aria-label="Filter tunnels"
        value={filter.text}
        onInput={(e) => onFilter({ ...filter, text: e.currentTarget.value }, true)}
      />
    </section>
  );
}

interface FigureProps {
  label: string;
  value: number | undefined;
  of: number | undefined;
  /** True when anything but zero is bad; else less than all is. */
  alarm?: boolean;
}

function Figure({ label, value, of, alarm }: FigureProps) {
  const bad = value !== undefined && (alarm ? value > 0 : value !== of);
  return (
    <span class={bad ? "figure bad" : "figure"}>
      <b>{value ?? "–"}</b>
      {!alarm && of !== undefined && <> / {of}</>} <span>{label}</span>
    </span>
  );
}

/** How many absent edges are named; the count above says how many there are. */
const named = 12;

/** AbsentEdges names the edges that have no session with the controller, and for how long. */
export function AbsentEdges({ edges, time }: { edges: Edge[]; time: number }) {
  if (edges.length === 0) return null;
  return (
    <p class="absent">
      Not connected:{" "}
      {edges.slice(0, named).map((e) => {
        const seen = millis(e.status?.lastSeenTime);
        return (
          <span key={e.name}>
            <b>{base(e.name)}</b> {seen === undefined ? "never seen" : duration(time - seen)}
          </span>
        );
      })}
      {edges.length > named && <span>and {edges.length - named} more</span>}
    </p>
  );
}

/** How long the counts must have been quiet before they are read out, in ms. */
const calm = 2000;

/** Announcer reads the counts to people who hear the page, once they have settled. */
export function Announcer({ counts }: { counts: FleetCounts | undefined }) {
  const text = counted
    .filter((l) => (count(counts, l) ?? 0) > 0)
    .map((l) => `${count(counts, l)} ${l.label.toLowerCase()}`)
    .join(", ");
  const [said, say] = useState("");
  useEffect(() => {
    const timer = setTimeout(() => say(text === "" ? "" : `Tunnels: ${text}`), calm);
    return () => clearTimeout(timer);
  }, [text]);
  return (
    <p class="heard" role="status">
      {said}
    </p>
  );
}
