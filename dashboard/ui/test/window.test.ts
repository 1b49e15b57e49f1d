import { describe, expect, test } from "vitest";
import { type Gap, span, targetRow } from "../src/window";

const rowHeight = 10;

function rowsOf(parts: (number | Gap)[]): number {
  return parts.reduce<number>((n, p) => n + (typeof p === "number" ? 1 : p.rows), 0);
}

describe("span", () => {
  test.each([
    [0, 0, 0],
    [1, 0, 0],
    [5, 4, 0],
    [50_000, 0, 0],
    [50_000, 49_999, 0],
    [50_000, 0, 250_000],
    [50_000, 49_999, 499_900],
    [3, 0, 900_000], // the list shrank while scrolled down
  ])("of %d rows, current %d, scrolled to %d, stands for each row once", (count, current, top) => {
    const parts = span(count, current, { top, height: 100 }, rowHeight);
    expect(rowsOf(parts)).toBe(count);
    const drawn = parts.filter((p) => typeof p === "number");
    expect(drawn).toEqual([...new Set(drawn)].sort((a, b) => a - b));
    expect(drawn.length).toBeLessThan(40);
    if (count > 0) expect(drawn).toContain(current);
    expect(new Set(parts.map((p) => (typeof p === "number" ? p : p.key))).size).toBe(parts.length);
  });

  test("draws what is in sight", () => {
    const parts = span(1000, 0, { top: 5000, height: 100 }, rowHeight);
    for (let i = 500; i < 510; i++) expect(parts).toContain(i);
  });
});

test.each([
  ["ArrowDown", 3, 4],
  ["j", 3, 4],
  ["ArrowUp", 3, 2],
  ["k", 0, 0],
  ["ArrowDown", 9, 9],
  ["PageDown", 3, 8],
  ["PageUp", 3, 0],
  ["Home", 3, 0],
  ["End", 3, 9],
  ["x", 3, undefined],
])("%s from row %d leads to %d", (key, from, want) => {
  expect(targetRow(key, from, 10, 5)).toBe(want);
});
