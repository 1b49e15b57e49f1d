import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { expect, test } from "vitest";
import { base, clock, dateTime, duration, millis, octets } from "../src/format";
import { noon } from "./fixtures";

test.each([
  [-5000, "0s"],
  [0, "0s"],
  [999, "0s"],
  [59_999, "59s"],
  [60_000, "1m 0s"],
  [3_599_999, "59m 59s"],
  [3_600_000, "1h 0m"],
  [86_399_999, "23h 59m"],
  [86_400_000, "1d 0h"],
  [41 * 86_400_000 + 5 * 3_600_000, "41d 5h"],
])("duration of %d ms", (ms, want) => {
  expect(duration(ms)).toBe(want);
});

test.each([
  [0n, "0 B"],
  [1023n, "1023 B"],
  [1024n, "1.0 KiB"],
  [1536n, "1.5 KiB"],
  [1024n ** 2n - 1n, "1.0 MiB"],
  [13_002_342n, "12.4 MiB"],
  [1024n ** 4n, "1.0 TiB"],
  [2n ** 64n - 1n, "16.0 EiB"],
])("octets of %d", (n, want) => {
  expect(octets(n)).toBe(want);
});

test("instants", () => {
  expect(millis(undefined)).toBeUndefined();
  expect(millis(timestampFromMs(noon + 12))).toBe(noon + 12);
  expect(clock(noon + 61_000)).toBe("12:01:01Z");
  expect(dateTime(noon)).toBe("2026-03-01 12:00:00Z");
});

test("base", () => {
  expect(base("networks/demo/sites/oslo")).toBe("oslo");
  expect(base("oslo")).toBe("oslo");
  expect(base("")).toBe("");
});
