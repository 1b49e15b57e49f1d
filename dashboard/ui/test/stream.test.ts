import { Code, ConnectError } from "@connectrpc/connect";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { WatchFleetResponse } from "../src/gen/swanherd/v1/fleet_service_pb";
import { FleetStore } from "../src/store";
import { type Connection, deadAfter, firstDelay, follow, maxDelay, type Watch } from "../src/stream";
import { frame, tunnel } from "./fixtures";

beforeEach(() => {
  vi.useFakeTimers();
  vi.spyOn(Math, "random").mockReturnValue(1); // the longest delays
});
afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

/** What one stream does: its frames, then how it ends; "hang" waits for the abort. */
interface Script {
  frames?: WatchFleetResponse[];
  end: "close" | "hang" | Error;
}

/** scripted plays one script per call, the last one for ever; opened counts the calls. */
function scripted(...scripts: Script[]): Watch & { opened: number } {
  async function* play(signal: AbortSignal) {
    const script = scripts[Math.min(watch.opened++, scripts.length - 1)];
    yield* script?.frames ?? [];
    if (script?.end instanceof Error) throw script.end;
    if (script?.end === "hang") {
      await new Promise((_, reject) => {
        signal.addEventListener("abort", () => reject(new ConnectError("aborted", Code.Canceled)));
      });
    }
  }
  const watch = Object.assign(play, { opened: 0 });
  return watch;
}

function start(watch: Watch) {
  const store = new FleetStore();
  const seen: Connection[] = [];
  const abort = new AbortController();
  const done = follow(watch, store, (c) => seen.push(c), abort.signal);
  return { store, seen, abort, done };
}

const first = frame({ tunnels: [tunnel("a--b")], synced: true });

test("frames reach the store, and the connection is live", async () => {
  const { store, seen, abort, done } = start(scripted({ frames: [first], end: "hang" }));
  await vi.advanceTimersByTimeAsync(0);
  expect(store.size).toBe(1);
  expect(seen).toEqual([{ state: "live" }]);
  abort.abort();
  await done;
  expect(seen, "nothing is said after the abort").toHaveLength(1);
});

test("a stream that breaks is opened again, with growing delays", async () => {
  const watch = scripted({ end: new ConnectError("no route", Code.Unavailable) });
  const { seen, abort, done } = start(watch);
  let wait = firstDelay;
  for (let tries = 1; tries < 10; tries++) {
    await vi.advanceTimersByTimeAsync(0);
    expect(watch.opened).toBe(tries);
    expect(seen.at(-1)).toMatchObject({ state: "connecting", attempt: tries });
    await vi.advanceTimersByTimeAsync(wait - 1);
    expect(watch.opened, "not before its time").toBe(tries);
    await vi.advanceTimersByTimeAsync(1);
    wait = Math.min(2 * wait, maxDelay);
  }
  abort.abort();
  await done;
});

test("a frame makes the next delay short again", async () => {
  const broken = new ConnectError("reset", Code.Unavailable);
  const watch = scripted(
    { end: broken },
    { end: broken },
    { frames: [first], end: "close" },
    { end: "hang" },
  );
  const { seen, abort, done } = start(watch);
  await vi.advanceTimersByTimeAsync(firstDelay + 2 * firstDelay);
  expect(watch.opened).toBe(3);
  expect(seen.at(-1)).toMatchObject({ state: "connecting", attempt: 1 });
  await vi.advanceTimersByTimeAsync(firstDelay);
  expect(watch.opened).toBe(4);
  abort.abort();
  await done;
});

test("a stream that has fallen silent is given up", async () => {
  const watch = scripted({ frames: [first], end: "hang" }, { frames: [first], end: "hang" });
  const { store, abort, done } = start(watch);
  await vi.advanceTimersByTimeAsync(deadAfter - 1);
  expect(watch.opened).toBe(1);
  await vi.advanceTimersByTimeAsync(1 + firstDelay);
  expect(watch.opened).toBe(2);
  expect(store.size, "no row is there twice").toBe(1);
  abort.abort();
  await done;
});

test("without a session there is no other try", async () => {
  const watch = scripted({ end: new ConnectError("not signed in", Code.Unauthenticated) });
  const { seen, done } = start(watch);
  await done;
  await vi.advanceTimersByTimeAsync(10 * maxDelay);
  expect(watch.opened).toBe(1);
  expect(seen).toEqual([{ state: "signed-out" }]);
});

test("an abort while waiting ends it at once", async () => {
  const watch = scripted({ end: "close" });
  const { abort, done } = start(watch);
  await vi.advanceTimersByTimeAsync(1);
  abort.abort();
  await done;
  expect(watch.opened).toBe(1);
  expect(vi.getTimerCount()).toBe(0);
});
