import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { base, dateTime, duration, octets } from "./format";
import type { Tunnel } from "./gen/swanherd/v1/tunnel_pb";
import { Glyph } from "./glyph";
import type { Row } from "./store";
import { span, targetRow, type Window } from "./window";

const rowHeight = 32;
const headHeight = 30;

const columns = [
  ["status", "Status"],
  ["name", "Tunnel"],
  ["since", "Since"],
  ["reason", "Reason"],
  ["end", "A"],
  ["end", "B"],
  ["suite", "IKE SA"],
  ["octets", "A → B"],
  ["octets", "B → A"],
] as const;

interface Props {
  rows: Row[];
  /** Tunnels without the filter. */
  total: number;
  synced: boolean;
  /** The controller's time, ms since 1970. */
  time: number;
  /** The address of a tunnel's details. */
  href: (name: string) => string;
  onOpen: (name: string) => void;
}

/**
 * TunnelTable lists tunnels, problems first. Only the rows that can be seen are
 * in the document, so that fifty thousand cost no more than fifty. The table is
 * one stop of the Tab key; arrows, Page Up and Down, Home and End move in it.
 */
export function TunnelTable({ rows, total, synced, time, href, onOpen }: Props) {
  const scroller = useRef<HTMLDivElement>(null);
  const current = useRef<HTMLAnchorElement>(null);
  const moved = useRef(false);
  const [name, setName] = useState("");
  const seen = useWindow(scroller);

  // Rows move under the viewer, who stays with the tunnel, not with the place.
  const at = Math.max(
    0,
    rows.findIndex((r) => r.tunnel.name === name),
  );
  const hadFocus = scroller.current?.contains(document.activeElement) ?? false;
  useLayoutEffect(() => {
    const lost = hadFocus && !scroller.current?.contains(document.activeElement);
    if (moved.current || lost) current.current?.focus({ preventScroll: true });
    moved.current = false;
  });

  const onKey = (e: KeyboardEvent) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const to = targetRow(e.key, at, rows.length, Math.max(1, Math.floor(seen.height / rowHeight) - 2));
    const row = to === undefined ? undefined : rows[to];
    if (to === undefined || row === undefined) return;
    e.preventDefault();
    moved.current = true;
    setName(row.tunnel.name);
    reveal(scroller.current, to);
  };

  return (
    <section class="tunnels" aria-label="Tunnels">
      <div class="scroller" ref={scroller}>
        <table aria-rowcount={rows.length + 1}>
          <caption class="heard">Tunnels, problems first</caption>
          <thead>
            <tr aria-rowindex={1}>
              {columns.map(([key, title]) => (
                <th scope="col" key={title} class={key}>
                  {title}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {span(rows.length, at, seen, rowHeight).map((part) =>
              typeof part === "number" ? (
                <TunnelRow
                  key={rows[part]?.tunnel.name}
                  row={rows[part] as Row}
                  index={part}
                  time={time}
                  link={part === at ? current : undefined}
                  href={href}
                  onKey={onKey}
                  onFocus={setName}
                  onOpen={onOpen}
                />
              ) : (
                <tr key={part.key} class="gap" style={{ height: `${part.rows * rowHeight}px` }}>
                  <td colSpan={columns.length} />
                </tr>
              ),
            )}
          </tbody>
        </table>
      </div>
      <p class="shown">{summary(rows.length, total, synced)}</p>
    </section>
  );
}

function summary(shown: number, total: number, synced: boolean): string {
  if (!synced) return "Loading tunnels";
  if (total === 0) return "No tunnels: no mesh connects two sites that have edges.";
  return shown === total ? `${total} tunnels` : `${shown} of ${total} tunnels pass the filter`;
}

/** useWindow follows what part of the element's content is in sight. */
function useWindow(element: { current: HTMLElement | null }): Window {
  const [seen, setSeen] = useState<Window>({ top: 0, height: 600 });
  useEffect(() => {
    const e = element.current;
    if (e === null) return;
    const look = () => setSeen({ top: e.scrollTop, height: e.clientHeight - headHeight });
    const observer = new ResizeObserver(look);
    observer.observe(e);
    e.addEventListener("scroll", look, { passive: true });
    return () => {
      observer.disconnect();
      e.removeEventListener("scroll", look);
    };
  }, [element]);
  return seen;
}

/** reveal scrolls no further than needed for the row to be in sight. */
function reveal(scroller: HTMLElement | null, index: number): void {
  if (scroller === null) return;
  const top = index * rowHeight;
  const height = scroller.clientHeight - headHeight;
  if (top < scroller.scrollTop) scroller.scrollTop = top;
  else if (top + rowHeight > scroller.scrollTop + height) scroller.scrollTop = top + rowHeight - height;
}

interface RowProps {
  row: Row;
  index: number;
  time: number;
  /** Set for the row that the Tab key reaches. */
  link: { current: HTMLAnchorElement | null } | undefined;
  href: (name: string) => string;
  onKey: (e: KeyboardEvent) => void;
  onFocus: (name: string) => void;
  onOpen: (name: string) => void;
}

function TunnelRow({ row, index, time, link, href, onKey, onFocus, onOpen }: RowProps) {
  const t = row.tunnel;
  const [aToB, bToA] = traffic(t);
  const open = (e: MouseEvent) => {
    if (e.ctrlKey || e.metaKey || e.shiftKey) return; // a tab or window of its own
    e.preventDefault();
    onOpen(t.name);
  };
  return (
    <tr aria-rowindex={index + 2} class={row.look.key}>
      <td class="status">
        <Glyph status={row.look.key} /> {row.look.label}
      </td>
      <td class="name">
        <a
          ref={link}
          href={href(t.name)}
          title={t.name}
          tabIndex={link === undefined ? -1 : 0}
          onClick={open}
          onKeyDown={onKey}
          onFocus={() => onFocus(t.name)}
        >
          {base(t.name)}
        </a>
      </td>
      <td class="since" title={row.since === undefined ? undefined : dateTime(row.since)}>
        {row.since === undefined ? "" : duration(time - row.since)}
      </td>
      <td class="reason" title={t.reason}>
        {t.reason}
      </td>
      <td class="end">{t.a?.endpoint}</td>
      <td class="end">{t.b?.endpoint}</td>
      <td class="suite">{t.a?.report?.ikeSa?.suite ?? t.b?.report?.ikeSa?.suite}</td>
      <td class="octets">{aToB === undefined ? "" : octets(aToB)}</td>
      <td class="octets">{bToA === undefined ? "" : octets(bToA)}</td>
    </tr>
  );
}

/** What the tunnel's SAs carried from A to B and back: as A counts, else as B does. */
function traffic(t: Tunnel): [bigint, bigint] | [] {
  const a = t.a?.report?.childSas ?? [];
  const b = t.b?.report?.childSas ?? [];
  const sas = a.length > 0 ? a : b;
  if (sas.length === 0) return [];
  let sent = 0n;
  let received = 0n;
  for (const c of sas) {
    sent += c.counters?.octetsOut ?? 0n;
    received += c.counters?.octetsIn ?? 0n;
  }
  return sas === a ? [sent, received] : [received, sent];
}
