/** Lets the compiled guest agent be embedded as a file; its import is its path. */
declare module "*/guest/build/agent" {
  const path: string
  export default path
}

/** The same for the program that mounts shares. */
declare module "*/mount-helper/build/mount-helper" {
  const path: string
  export default path
}

/** The same for the runner in C. */
declare module "*/launcher/build/launcher" {
  const path: string
  export default path
}

/** Paths of the files of the package of native files, by their names; the package is made by scripts/package. */
declare module "bunker-sandbox-linux-x64" {
  const files: Readonly<Record<string, string>>
  export default files
}

/** The same of what the npm package has besides; scripts/package writes it. */
declare module "*/embedded.js" {
  const files: Readonly<Record<string, string>>
  export default files
}
