import { Code, ConnectError } from "@connectrpc/connect";
import { fleet } from "./api";
import type { FleetStore } from "./store";
import { staleAfter } from "./store";

/** What the connection is doing, for people. */
export type Connection =
  | { state: "connecting"; attempt: number; retryAt: number }
  | { state: "live" }
  | { state: "signed-out" };

const firstDelay = 500;
const maxDelay = 15_000;

/**
 * follow keeps the store fed until the signal aborts: it opens the stream,
 * gives up one that has fallen silent, and comes back with growing, random
 * delays. onChange is called after each frame and each change of connection,
 * never after the abort.
 */
export async function follow(
  store: FleetStore,
  onChange: (c: Connection) => void,
  signal: AbortSignal,
): Promise<void> {
  for (let attempt = 0; !signal.aborted; attempt++) {
    try {
      await once(store, signal, () => {
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
async function once(store: FleetStore, signal: AbortSignal, onFrame: () => void): Promise<void> {
  const silent = new AbortController();
  let timer = 0;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silent.abort(), staleAfter * 3);
  };
  heard();
  try {
    let first = true;
    const frames = fleet.watchFleet(
      { parent: "networks/-" },
      { signal: AbortSignal.any([signal, silent.signal]) },
    );
    for await (const frame of frames) {
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
