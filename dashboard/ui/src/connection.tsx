import { clock, duration } from "./format";
import { staleAfter } from "./store";
import type { Connection } from "./stream";

interface Props {
  connection: Connection;
  /** ms since the last frame. */
  silence: number;
  /** The newest time for which the screen speaks, ms since 1970. */
  time: number | undefined;
  /** The viewer's monotonic clock, in ms. */
  now: number;
}

/** ConnectionBar says that what is on screen is not live, since when, and what is done about it. */
export function ConnectionBar({ connection, silence, time, now }: Props) {
  if (silence <= staleAfter) return null;
  const next =
    connection.state === "connecting" && connection.attempt > 0
      ? `attempt ${connection.attempt + 1} in ${duration(connection.retryAt - now)}`
      : "no answer yet";
  return (
    <div class="lost" role="alert">
      {time === undefined
        ? `Waiting for the controller (${next})`
        : `Live data stopped at ${clock(time)}: showing what was last known (${next})`}
    </div>
  );
}

/**
 * StoreBar says that the controller does not reach its store: what edges report comes on,
 * but what was changed since is not on screen.
 */
export function StoreBar({ staleSince }: { staleSince: number | undefined }) {
  if (staleSince === undefined) return null;
  return (
    <div class="lost" role="alert">
      {`The controller does not reach its store: changes since ${clock(staleSince)} are not shown, and none can be made here`}
    </div>
  );
}

/** Live is the small sign in the header that all is well, with the controller's clock. */
export function Live({ live, time }: { live: boolean; time: number | undefined }) {
  return (
    <span class={live ? "live" : "live not"}>
      {live ? "live" : "not live"} {time !== undefined && <time>{clock(time)}</time>}
    </span>
  );
}
