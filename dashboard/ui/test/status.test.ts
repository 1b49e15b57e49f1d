import { expect, test } from "vitest";
import { TunnelStatus, TunnelStatusSchema } from "../src/gen/swanherd/v1/tunnel_pb";
import { allLooks, isStatusKey, look } from "../src/status";

test("every status has a look of its own", () => {
  const looks = TunnelStatusSchema.values.map((v) => look(v.number));
  for (const field of ["key", "label", "rank"] as const) {
    expect(new Set(looks.map((l) => l[field])).size, field).toBe(looks.length);
  }
  expect(new Set(allLooks)).toEqual(new Set(looks));
});

test("only the status without a meaning is unknown", () => {
  for (const v of TunnelStatusSchema.values) {
    expect(look(v.number).key === "unknown", v.name).toBe(v.number === TunnelStatus.UNSPECIFIED);
  }
  expect(look(99 as TunnelStatus).key).toBe("unknown");
});

test("looks are in order, the worst first and up last", () => {
  expect(allLooks.map((l) => l.key)).toEqual(["down", "degraded", "stale", "negotiating", "unknown", "up"]);
});

test("keys", () => {
  expect(allLooks.every((l) => isStatusKey(l.key))).toBe(true);
  expect(["", "Down", "toString", "broken"].some(isStatusKey)).toBe(false);
});
