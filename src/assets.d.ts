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
