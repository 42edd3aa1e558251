/** Disposes of what a program forgot once it comes to its end. Of one that is ended from outside the kernel ends the VMs. */

interface Disposable {
  readonly dispose: () => Promise<void>
}

/** What this program made for itself and did not dispose of yet. */
const undisposed = new Set<Disposable>()

const disposeAll = (): void => {
  for (const made of undisposed) void made.dispose()
}

/** Has it disposed of when nothing keeps the program's event loop alive any more. */
export const endWithProgram = (made: Disposable): void => {
  if (!process.listeners("beforeExit").includes(disposeAll)) process.on("beforeExit", disposeAll)
  undisposed.add(made)
}

/** It is disposed of, or about to be. */
export const forgetDisposed = (made: Disposable): void => {
  undisposed.delete(made)
  if (undisposed.size === 0) process.off("beforeExit", disposeAll)
}
