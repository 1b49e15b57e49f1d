import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { TunnelStatus } from "../src/gen/swanherd/v1/tunnel_pb";
import { type Filter, FleetStore, freshness, staleAfter } from "../src/store";
import { frame, noon, tunnel } from "./fixtures";

const all: Filter = { statuses: [], text: "" };

function names(store: FleetStore, filter = all): string[] {
  return store.rows(filter).map((r) => r.tunnel.name.replace("networks/demo/tunnels/", ""));
}

function storeWith(...tunnels: ReturnType<typeof tunnel>[]): FleetStore {
  const store = new FleetStore();
  store.apply(frame({ tunnels, synced: true }), 0);
  return store;
}

describe("frames", () => {
  test("add, replace and remove rows", () => {
    const store = storeWith(tunnel("a--b"), tunnel("a--c"));
    store.apply(frame({ tunnels: [tunnel("a--b", TunnelStatus.DOWN)] }), 1);
    expect(names(store)).toEqual(["a--b", "a--c"]);
    expect(store.tunnel("networks/demo/tunnels/a--b")?.status).toBe(TunnelStatus.DOWN);
    store.apply(frame({ removedTunnels: ["networks/demo/tunnels/a--b", "networks/demo/tunnels/none"] }), 2);
    expect(names(store)).toEqual(["a--c"]);
    expect(store.size).toBe(1);
  });

  test("keep the last counts and build when they bring none", () => {
    const store = storeWith();
    store.apply(frame({ counts: { up: 7, sites: 3 }, serverBuild: "v1" }), 0);
    store.apply(frame(), 1);
    expect(store.counts?.up).toBe(7);
    expect(store.build).toBe("v1");
  });

  test("are all there only after the one that says so", () => {
    const store = new FleetStore();
    store.apply(frame({ tunnels: [tunnel("a--b")] }), 0);
    expect(store.synced).toBe(false);
    expect(names(store), "rows show as they come").toEqual(["a--b"]);
    store.apply(frame({ synced: true }), 1);
    expect(store.synced).toBe(true);
  });
});

describe("the controller's store", () => {
  test("is lost as long as frames say so", () => {
    const store = storeWith(tunnel("a--b"));
    expect(store.staleSince).toBeUndefined();
    store.apply(frame({ staleSinceTime: timestampFromMs(noon - 7000) }), 1);
    expect(store.staleSince).toBe(noon - 7000);
    store.apply(frame(), 2);
    expect(store.staleSince).toBeUndefined();
  });

  test("is of the stream, not of the next person", () => {
    const store = storeWith();
    store.apply(frame({ staleSinceTime: timestampFromMs(noon) }), 1);
    store.clear();
    expect(store.staleSince).toBeUndefined();
  });

  test.each<[number, number | undefined, string]>([
    [0, undefined, ""],
    [staleAfter, undefined, ""],
    [0, noon, "may-be-old"],
    [staleAfter + 1, undefined, "not-live"],
    [staleAfter + 1, noon, "not-live"],
  ])("silence of %d, lost since %s: %s", (silence, since, want) => {
    expect(freshness(silence, since)).toBe(want);
  });
});

describe("restart", () => {
  test("shows the old picture until the new one is complete, without duplicates", () => {
    const store = storeWith(tunnel("a--b"), tunnel("a--c"));
    store.restart();
    expect(names(store)).toEqual(["a--b", "a--c"]);
    store.apply(frame({ tunnels: [tunnel("a--b", TunnelStatus.DOWN)] }), 1);
    expect(names(store)).toEqual(["a--b", "a--c"]);
    expect(store.synced).toBe(true);
    store.apply(frame({ synced: true }), 2);
    expect(names(store), "a--c went while nobody listened").toEqual(["a--b"]);
  });

  test("of a stream that broke off begins anew", () => {
    const store = storeWith(tunnel("a--b"));
    store.restart();
    store.apply(frame({ tunnels: [tunnel("a--x")] }), 1);
    store.restart();
    store.apply(frame({ tunnels: [tunnel("a--c")], synced: true }), 2);
    expect(names(store)).toEqual(["a--c"]);
  });

  test("before the first picture was complete drops what there was", () => {
    const store = new FleetStore();
    store.apply(frame({ tunnels: [tunnel("a--b")] }), 0);
    store.restart();
    store.apply(frame({ tunnels: [tunnel("a--c")], synced: true }), 1);
    expect(names(store)).toEqual(["a--c"]);
  });

  test("clear leaves nothing for the next person", () => {
    const store = storeWith(tunnel("a--b"));
    store.apply(frame({ counts: { up: 1 } }), 0);
    store.clear();
    expect([store.size, store.synced, store.counts, store.time(1)]).toEqual([0, false, undefined, undefined]);
  });
});

describe("order", () => {
  test("is problems first, then the newest change, then the name", () => {
    const store = storeWith(
      tunnel("a--up", TunnelStatus.UP, noon + 9000),
      tunnel("a--new", TunnelStatus.UNSPECIFIED),
      tunnel("a--neg", TunnelStatus.NEGOTIATING),
      tunnel("a--stale", TunnelStatus.STALE),
      tunnel("a--degraded", TunnelStatus.DEGRADED),
      tunnel("a--old", TunnelStatus.DOWN, noon),
      tunnel("a--fresh", TunnelStatus.DOWN, noon + 1),
      tunnel("a--alike", TunnelStatus.DOWN, noon),
    );
    expect(names(store)).toEqual([
      "a--fresh",
      "a--alike",
      "a--old",
      "a--degraded",
      "a--stale",
      "a--neg",
      "a--new",
      "a--up",
    ]);
  });
});

describe("filter", () => {
  const store = storeWith(
    tunnel("berlin--oslo", TunnelStatus.DOWN, noon, { reason: "oslo has no SA: AUTHENTICATION_FAILED" }),
    tunnel("berlin--lima", TunnelStatus.STALE),
    tunnel("lima--tokyo", TunnelStatus.UP, noon, {
      a: { endpoint: "198.51.100.9:500", prefixes: ["10.3.0.0/24"] },
    }),
  );

  test.each<[string, Filter, string[]]>([
    ["one status", { statuses: ["down"], text: "" }, ["berlin--oslo"]],
    ["two statuses", { statuses: ["up", "stale"], text: "" }, ["berlin--lima", "lima--tokyo"]],
    ["a name", { statuses: [], text: "LIMA" }, ["berlin--lima", "lima--tokyo"]],
    ["a reason", { statuses: [], text: "authentication" }, ["berlin--oslo"]],
    ["an address", { statuses: [], text: "198.51.100.9" }, ["lima--tokyo"]],
    ["a prefix", { statuses: [], text: "10.3." }, ["lima--tokyo"]],
    ["space around", { statuses: [], text: "  tokyo " }, ["lima--tokyo"]],
    ["both", { statuses: ["up"], text: "lima" }, ["lima--tokyo"]],
    ["nothing", { statuses: ["degraded"], text: "" }, []],
  ])("by %s", (_, filter, want) => {
    expect(names(store, filter)).toEqual(want);
  });
});

describe("clock", () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["Date"] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  test.each([
    ["right", 0],
    ["an hour late", -3_600_000],
    ["ten years ahead", 10 * 365 * 86_400_000],
  ])("ages are the controller's when the viewer's clock is %s", (_, error) => {
    vi.setSystemTime(noon + error);
    const store = new FleetStore();
    store.apply(frame({ synced: true }, noon), 1000);
    expect(store.time(3500)).toBe(noon + 2500);
    expect(store.silence(3500)).toBe(2500);
  });

  test("set back while watching changes nothing", () => {
    const store = new FleetStore();
    store.apply(frame({}, noon), 1000);
    vi.setSystemTime(0);
    store.apply(frame({}, noon + 1000), 2000);
    expect(store.time(2000)).toBe(noon + 1000);
  });

  test("silence is endless before the first frame, and grows until the next", () => {
    const store = new FleetStore();
    expect(store.silence(5)).toBe(Number.POSITIVE_INFINITY);
    expect(store.time(5)).toBeUndefined();
    store.apply(frame(), 0);
    expect(store.silence(staleAfter)).toBe(staleAfter);
    store.apply(frame(), 7000);
    expect(store.silence(7000)).toBe(0);
  });

  test("a frame without a time keeps the last one", () => {
    const store = new FleetStore();
    store.apply(frame({}, noon), 0);
    store.apply(frame({ serverTime: undefined }), 1000);
    expect(store.time(1000)).toBe(noon);
  });
});

test("absent edges: without a session, not disabled, longest absence first", () => {
  const store = new FleetStore();
  const edge = (id: string, connected: boolean, seen: number | undefined, disabled = false) => ({
    name: `networks/demo/edges/${id}`,
    disabled,
    status: { connected, lastSeenTime: seen === undefined ? undefined : timestampFromMs(seen) },
  });
  const edges = [
    edge("here", true, noon),
    edge("late", false, noon - 1000),
    edge("later", false, noon - 9000),
    edge("off", false, noon, true),
    edge("never", false, undefined),
  ];
  store.apply(frame({ edges, synced: true }), 0);
  const absent = () => store.absentEdges().map((e) => e.name.replace("networks/demo/edges/", ""));
  expect(absent()).toEqual(["never", "later", "late"]);
  store.apply(frame({ edges: [edge("later", true, noon)], removedEdges: ["networks/demo/edges/never"] }), 1);
  expect(absent()).toEqual(["late"]);
});
