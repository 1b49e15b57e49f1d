import { createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { AccessService } from "./gen/swanherd/v1/access_service_pb";
import { FleetService } from "./gen/swanherd/v1/fleet_service_pb";

const transport = createGrpcWebTransport({ baseUrl: "/rpc", useBinaryFormat: true });

export const fleet = createClient(FleetService, transport);
export const access = createClient(AccessService, transport);

/** login turns the code of a login link into a session; the reason when it cannot. */
export async function login(code: string): Promise<string | undefined> {
  try {
    const answer = await fetch("/auth/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ code }),
    });
    return answer.ok ? undefined : (await answer.text()).trim();
  } catch {
    return "the controller cannot be reached";
  }
}

/** hasProvider says whether people sign in with an identity provider. */
export async function hasProvider(): Promise<boolean> {
  try {
    const answer = await fetch("/auth/provider");
    return answer.ok && (await answer.json()).issuer !== "";
  } catch {
    return false;
  }
}

/** logout ends the session, here and at the controller; the reason when it cannot. */
export async function logout(): Promise<string | undefined> {
  try {
    const answer = await fetch("/auth/logout", { method: "POST" });
    return answer.ok ? undefined : (await answer.text()).trim();
  } catch {
    return "the controller cannot be reached";
  }
}
