import { describe, expect, test } from "vitest";
import { address, loginCode, parse, type View } from "../src/address";

function there(view: View): View {
  const url = new URL(address(view), "https://noc.example");
  return parse(url.pathname, url.search);
}

describe("round trip", () => {
  test.each<[string, View]>([
    ["everything", { filter: { statuses: [], text: "" }, tunnel: "" }],
    ["statuses", { filter: { statuses: ["down", "stale"], text: "" }, tunnel: "" }],
    ["text", { filter: { statuses: [], text: "a & b=c, 10.0.0.0/8 + 50% ü#?" }, tunnel: "" }],
    ["a tunnel", { filter: { statuses: [], text: "" }, tunnel: "networks/demo/tunnels/berlin--oslo" }],
    ["all of it", { filter: { statuses: ["up"], text: "x" }, tunnel: "networks/n/tunnels/t" }],
  ])("%s", (_, view) => {
    expect(there(view)).toEqual(view);
  });
});

test("addresses read well", () => {
  expect(
    address({
      filter: { statuses: ["down", "degraded"], text: "oslo" },
      tunnel: "networks/demo/tunnels/a--b",
    }),
  ).toBe("/tunnels/demo/a--b?status=down,degraded&q=oslo");
  expect(address({ filter: { statuses: [], text: "" }, tunnel: "" })).toBe("/tunnels");
});

describe("what is not known is ignored", () => {
  const nothing: View = { filter: { statuses: [], text: "" }, tunnel: "" };
  test.each([
    ["/", ""],
    ["/nowhere", "?unknown=1"],
    ["/tunnels/", "?status="],
    ["/tunnels/demo", "?status=,,&q="],
    ["/tunnels/demo/a/b", "?status=broken"],
    ["/tunnels/%E0%A4%A/%", ""],
    ["/tunnels/demo/<script>", ""],
  ])("%s%s", (path, search) => {
    expect(parse(path, search)).toEqual(nothing);
  });

  test("beside what is, and twice is once", () => {
    expect(parse("/", "?status=down,bogus,down&x=y").filter.statuses).toEqual(["down"]);
  });
});

test("the code of a sign-in link", () => {
  expect(loginCode("#login=swl_Ab-9.~")).toBe("swl_Ab-9.~");
  for (const hash of ["", "#", "#login=", "#login=a b", "#other=x", "#login=a&b"]) {
    expect(loginCode(hash)).toBeUndefined();
  }
});
