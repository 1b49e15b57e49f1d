import { useEffect, useRef } from "preact/hooks";
import { base, duration, millis, octets } from "./format";
import {
  type ChildSa,
  type IkeSa,
  type Tunnel,
  type TunnelEnd,
  type TunnelError,
  TunnelState,
} from "./gen/swanherd/v1/tunnel_pb";
import { Glyph } from "./glyph";
import { look } from "./status";

interface Props {
  name: string;
  tunnel: Tunnel | undefined;
  /** True while it may yet come. */
  loading: boolean;
  /** The controller's time, ms since 1970. */
  time: number;
  onClose: () => void;
}

/** TunnelDetails shows both ends of a tunnel side by side. */
export function TunnelDetails({ name, tunnel, loading, time, onClose }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    if (!dialog.current?.open) dialog.current?.showModal();
  }, []);
  return (
    <dialog ref={dialog} class="details" aria-labelledby="details-title" onClose={onClose}>
      <div class="title">
        <h2 id="details-title">{name}</h2>
        {tunnel && <Verdict tunnel={tunnel} time={time} />}
        <button type="button" onClick={() => dialog.current?.close()}>
          Close
        </button>
      </div>
      {tunnel === undefined ? (
        <p>{loading ? "Loading" : "There is no such tunnel now."}</p>
      ) : (
        <>
          {tunnel.reason !== "" && <p class="reason">{tunnel.reason}</p>}
          <div class="ends">
            <End end={tunnel.a} time={time} side="A" />
            <End end={tunnel.b} time={time} side="B" />
          </div>
          <p class="origin">
            Planned from {tunnel.mesh === "" ? "a gateway" : `mesh ${base(tunnel.mesh)}`} at revision{" "}
            {String(tunnel.plannedRevision)}.
          </p>
        </>
      )}
    </dialog>
  );
}

function Verdict({ tunnel, time }: { tunnel: Tunnel; time: number }) {
  const l = look(tunnel.status);
  const since = millis(tunnel.statusTime);
  return (
    <p class={`verdict ${l.key}`}>
      <Glyph status={l.key} /> {l.label}
      {since !== undefined && <> for {duration(time - since)}</>}
    </p>
  );
}

function End({ end, time, side }: { end: TunnelEnd | undefined; time: number; side: string }) {
  if (end === undefined) return null;
  const r = end.report;
  return (
    <section aria-label={`End ${side}`} class={end.stale ? "last-known" : undefined}>
      <h3>
        {side}: {base(end.site || end.gateway)} <small>{end.uplink}</small>{" "}
        {end.initiator && <small>initiator</small>}
        {end.stale && <em>last known</em>}
      </h3>
      <dl>
        {end.edge === "" ? (
          <Item label="Gateway" value={base(end.gateway)} />
        ) : (
          <Item label="Edge" value={base(end.edge)} />
        )}
        <Item label="Endpoint" value={end.endpoint} />
        <Item label="Prefixes" value={end.prefixes.join(", ")} />
        {end.edge !== "" && <Item label="Last report" value={lastReport(end, time)} />}
        {r && <Item label="State" value={state(r.state, millis(r.stateTime), time)} />}
        {r?.nextAttemptTime && <Item label="Next try" value={ahead(r.nextAttemptTime, time)} />}
      </dl>
      {r?.lastError && <Failure error={r.lastError} time={time} />}
      {r?.ikeSa && <Ike sa={r.ikeSa} time={time} />}
      {r?.childSas.map((c) => (
        <Child key={c.spiIn} sa={c} time={time} />
      ))}
    </section>
  );
}

// Failure says why a tunnel is not what it should be, and what to do.
function Failure({ error: e, time }: { error: TunnelError; time: number }) {
  return (
    <dl>
      <Item label="Last error" value={errorText(e, time)} />
      {e.exchange !== "" && (
        <Item
          label="Exchange"
          value={e.payload === "" ? e.exchange : `${e.exchange}, payload ${e.payload}`}
        />
      )}
      {e.child !== "" && <Item label="Child SA" value={e.child} />}
      {e.ours.length > 0 && <Item label="Offered here" value={e.ours.join(" or ")} />}
      {e.theirs.length > 0 && <Item label="Offered by peer" value={e.theirs.join(" or ")} />}
      {e.remedy !== "" && <Item label="Remedy" value={e.remedy} />}
    </dl>
  );
}

function Ike({ sa, time }: { sa: IkeSa; time: number }) {
  return (
    <dl class="sa">
      <Item label="IKE SA" value={`${sa.initiatorSpi} → ${sa.responderSpi}`} mono />
      <Item label="Suite" value={sa.suite} mono />
      <Item
        label="Peer"
        value={sa.remoteAuth === "" ? sa.remoteId : `${sa.remoteId}, proved by ${sa.remoteAuth}`}
      />
      <Item label="Lifetime" value={lifetime(sa, time)} />
      <Item label="NAT" value={nat(sa)} />
      {sa.tcpEncapsulated && <Item label="Carried by" value="TCP: UDP does not pass" />}
    </dl>
  );
}

function Child({ sa, time }: { sa: ChildSa; time: number }) {
  const c = sa.counters;
  return (
    <dl class="sa">
      <Item label="Child SA" value={`${sa.spiIn} in, ${sa.spiOut} out`} mono />
      <Item label="Suite" value={`${sa.suite} (${sa.mode})`} mono />
      <Item label="Selectors" value={`${sa.localTs.join(", ")} ⇄ ${sa.remoteTs.join(", ")}`} mono />
      <Item label="Lifetime" value={lifetime(sa, time)} />
      {c && (
        <>
          <Item label="Received" value={`${c.packetsIn} packets, ${octets(c.octetsIn)}`} />
          <Item label="Sent" value={`${c.packetsOut} packets, ${octets(c.octetsOut)}`} />
          <Item
            label="Dropped"
            value={`${c.replayDrops} replayed, ${c.integrityFailures} forged, ${c.policyDrops} against policy`}
          />
        </>
      )}
    </dl>
  );
}

function Item({ label, value, mono }: { label: string; value: string; mono?: boolean }) {
  return (
    <>
      <dt>{label}</dt>
      <dd class={mono ? "mono" : undefined}>{value}</dd>
    </>
  );
}

type Instant = Parameters<typeof millis>[0];

function ago(t: Instant, time: number): string {
  const at = millis(t);
  return at === undefined ? "at an unknown time" : `${duration(time - at)} ago`;
}

function ahead(t: Instant, time: number): string {
  const at = millis(t);
  return at === undefined ? "" : at <= time ? "now" : `in ${duration(at - time)}`;
}

function lifetime(sa: { establishedTime?: Instant; rekeyTime?: Instant }, time: number): string {
  const began = `established ${ago(sa.establishedTime, time)}`;
  return sa.rekeyTime === undefined ? began : `${began}, rekey ${ahead(sa.rekeyTime, time)}`;
}

function lastReport(end: TunnelEnd, time: number): string {
  const last = end.receiveTime === undefined ? "none yet" : ago(end.receiveTime, time);
  return end.stale ? `${last}; the edge is not connected` : last;
}

function state(s: TunnelState, since: number | undefined, time: number): string {
  const word = (TunnelState[s] ?? "unknown").toLowerCase();
  return since === undefined ? word : `${word} for ${duration(time - since)}`;
}

function errorText(e: TunnelError, time: number): string {
  const from = e.remote ? " from the peer" : "";
  return `${e.code}${from}${e.message === "" ? "" : `: ${e.message}`} (${ago(e.time, time)})`;
}

function nat(sa: IkeSa): string {
  if (sa.natLocal && sa.natRemote) return "at both ends";
  return sa.natLocal ? "at this end" : sa.natRemote ? "at the peer" : "none";
}
