import { Code, ConnectError } from "@connectrpc/connect";
import type { WatchFleetResponse } from "./gen/swanherd/v1/fleet_service_pb";
import type { FleetStore } from "./store";
import { staleAfter } from "./store";

/** What the connection is doing, for people. */
export type Connection =
  | { state: "connecting"; attempt: number; retryAt: number }
  | { state: "live" }
  | { state: "signed-out" };

/** Watch opens the stream of the fleet. */
export type Watch = (signal: AbortSignal) => AsyncIterable<WatchFleetResponse>;

/** Bounds of the delay before another try, in ms. */
export const firstDelay = 500;
export const maxDelay = 15_000;

/** Silence after which a stream is given up, in ms. */
export const deadAfter = 3 * staleAfter;

/**
 * follow keeps the store fed until the signal aborts: it opens the stream,
 * gives up one that has fallen silent, and comes back with growing, random
 * delays. onChange is called after each frame and each change of connection,
 * never after the abort.
 */
export async function follow(
  watch: Watch,
  store: FleetStore,
  onChange: (c: Connection) => void,
  signal: AbortSignal,
): Promise<void> {
  for (let attempt = 0; !signal.aborted; attempt++) {
    try {
      await once(watch, store, signal, () => {
        attempt = 0;
        onChange({ state: "live" });
      });
    } catch (err) {
      if (signal.aborted) return;
      if (ConnectError.from(err).code === Code.Unauthenticated) {
        onChange({ state: "signed-out" });
        return;
      }
    }
    const delay = Math.random() * Math.min(maxDelay, firstDelay * 2 ** attempt);
    onChange({ state: "connecting", attempt: attempt + 1, retryAt: performance.now() + delay });
    await sleep(delay, signal);
  }
}

/** once follows one stream to its end. */
async function once(
  watch: Watch,
  store: FleetStore,
  signal: AbortSignal,
  onFrame: () => void,
): Promise<void> {
  const silent = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silent.abort(), deadAfter);
  };
  heard();
  try {
    let first = true;
    for await (const frame of watch(AbortSignal.any([signal, silent.signal]))) {
      if (signal.aborted) return;
      heard();
      if (first) store.restart();
      first = false;
      store.apply(frame, performance.now());
      onFrame();
    }
  } finally {
    clearTimeout(timer);
  }
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}
