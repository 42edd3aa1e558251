/** Reads the environment variables that Bunker knows into one value. Pure: the doors call it once with `process.env`. */

export interface Settings {
  /** Home directory: absolute path. `BUNKER_HOME`, default `~/.bunker`. */
  readonly home: string
  /** `BUNKER_LIBKRUN`: the library to use instead of a search. */
  readonly libkrun: string | undefined
  /** `BUNKER_LIBKRUNFW`: the kernel bundle to use instead of a search. */
  readonly libkrunfw: string | undefined
  /** `BUNKER_QEMU`: the emulator to use instead of a search. */
  readonly qemu: string | undefined
  /** `BUNKER_AGENT`: the guest agent to use instead of the one that comes with this build. */
  readonly agent: string | undefined
  /** Directory of Docker's config.json: `DOCKER_CONFIG`, default `~/.docker`. */
  readonly dockerConfig: string
  /** `BUNKER_ENGINE`: default of `--engine`. */
  readonly engine: string | undefined
  readonly path: string
}

type Environment = Readonly<Record<string, string | undefined>>

const given = (value: string | undefined): string | undefined =>
  value === undefined || value === "" ? undefined : value

/** `fallbackHome` is the user's home directory for an environment that names none. */
export const readSettings = (env: Environment, cwd: string, fallbackHome: string): Settings => {
  const userHome = given(env["HOME"]) ?? fallbackHome
  const home = given(env["BUNKER_HOME"]) ?? `${userHome}/.bunker`
  return {
    home: home.startsWith("/") ? home : `${cwd}/${home}`,
    libkrun: given(env["BUNKER_LIBKRUN"]),
    libkrunfw: given(env["BUNKER_LIBKRUNFW"]),
    qemu: given(env["BUNKER_QEMU"]),
    agent: given(env["BUNKER_AGENT"]),
    dockerConfig: given(env["DOCKER_CONFIG"]) ?? `${userHome}/.docker`,
    engine: given(env["BUNKER_ENGINE"]),
    path: given(env["PATH"]) ?? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
  }
}

/** What a keeper process needs to read the same settings: nothing else of the environment is passed on. */
export const settingsEnvironment = (settings: Settings): Readonly<Record<string, string>> =>
  Object.fromEntries(
    Object.entries({
      BUNKER_HOME: settings.home,
      BUNKER_LIBKRUN: settings.libkrun,
      BUNKER_LIBKRUNFW: settings.libkrunfw,
      BUNKER_QEMU: settings.qemu,
      BUNKER_AGENT: settings.agent,
      PATH: settings.path,
      HOME: "/",
      LC_ALL: "C.UTF-8"
    }).flatMap(([key, value]) => (value === undefined ? [] : [[key, value]]))
  )
