/**
 * Keeps an image on this machine while something is made from it, however long that takes: a lease of ImageStore's that is
 * renewed. Fetches and boots nothing itself.
 */
import { Effect } from "effect"
import { leaseToken } from "../../store/processes/processToken.ts"
import type { ImageStore } from "../images/ImageStore.ts"
import { contentLeaseMs, type LeaseManager, renewContent } from "./LeaseManager.ts"

/** The image that a reference names, or that a sandbox was made from, whatever the tag names now; here until the scope ends. */
export const leaseImage = Effect.fnUntraced(function* (
  images: ImageStore["Service"],
  leases: LeaseManager["Service"],
  request: { readonly reference: string; readonly sandboxId?: number }
) {
  const token = leaseToken()
  const held: Array<string> = []
  yield* Effect.addFinalizer(() => Effect.ignore(leases.DropContent({ token })))
  // From the start: fetching a damaged layer again may take longer than a lease lasts.
  yield* renewContent(leases, token, () => held)
  const image = yield* images
    .Lease({ ...request, token, durationMs: contentLeaseMs })
    .pipe(Effect.catchTag("RpcClientError", Effect.die))
  held.push(image.manifestDigest)
  return image
})
