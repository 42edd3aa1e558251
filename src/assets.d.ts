/** Lets the compiled guest agent be embedded as a file; its import is its path. */
declare module "*/guest/build/agent" {
  const path: string
  export default path
}
