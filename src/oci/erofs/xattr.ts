/**
 * Encodes and decodes the inline xattr body of an inode (`struct erofs_xattr_ibody_header` and its entries).
 * Shares no xattrs between inodes.
 */
import { roundUp, XATTR_ENTRY, XATTR_HEADER, XATTR_PREFIXES, XATTR_VALUE_MAX } from "./format.ts"
import { IMPLICIT_XATTR, type Inode, LINKS_LOWER_XATTR, LOWER_LINK_XATTR, OPAQUE_XATTR, type Xattr } from "./inode.ts"

const prefixOf = (name: string): readonly [index: number, suffix: string] | undefined => {
  for (const [index, prefix, whole] of XATTR_PREFIXES) {
    if (whole ? name === prefix : name.length > prefix.length && name.startsWith(prefix))
      return [index, name.slice(prefix.length)]
  }
  return undefined
}

/** Whether Linux has a namespace for the name: it could not be set on any file system otherwise. */
export const storable = (name: string): boolean => prefixOf(name) !== undefined

const entrySize = (xattr: Xattr): number =>
  roundUp(XATTR_ENTRY + prefixOf(xattr.name)![1].length + xattr.value.length, 4)

/** What the inode's marks add to its own xattrs. */
const withMarks = (inode: Inode): ReadonlyArray<Xattr> | undefined => {
  if (!inode.opaque && !inode.implicit && inode.lowerLink === undefined && !inode.linksLower) return inode.xattrs
  const all = [...(inode.xattrs ?? [])]
  if (inode.implicit) all.push({ name: IMPLICIT_XATTR, value: Buffer.from("y") })
  if (inode.opaque) all.push({ name: OPAQUE_XATTR, value: Buffer.from("y") })
  if (inode.linksLower) all.push({ name: LINKS_LOWER_XATTR, value: Buffer.from("y") })
  if (inode.lowerLink !== undefined) {
    all.push({ name: LOWER_LINK_XATTR, value: Buffer.from(inode.lowerLink, "latin1") })
  }
  return all
}

/** Bytes of the xattr body of an inode; 0 without xattrs. */
export const xattrBodySize = (inode: Inode): number => {
  const xattrs = withMarks(inode)
  if (xattrs === undefined || xattrs.length === 0) return 0
  return xattrs.reduce((sum, xattr) => sum + entrySize(xattr), XATTR_HEADER)
}

/** Writes the body at `at`; entries in byte order of their names, so that equal trees give equal bytes. */
export const writeXattrBody = (inode: Inode, into: Buffer, at: number): void => {
  const xattrs = [...(withMarks(inode) ?? [])].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
  into.fill(0, at, at + XATTR_HEADER)
  let offset = at + XATTR_HEADER
  for (const xattr of xattrs) {
    const [index, suffix] = prefixOf(xattr.name)!
    into[offset] = suffix.length
    into[offset + 1] = index
    into.writeUInt16LE(xattr.value.length, offset + 2)
    into.write(suffix, offset + XATTR_ENTRY, "latin1")
    into.set(xattr.value, offset + XATTR_ENTRY + suffix.length)
    const end = offset + entrySize(xattr)
    into.fill(0, offset + XATTR_ENTRY + suffix.length + xattr.value.length, end)
    offset = end
  }
}

/** Reads a body into the inode: marks become flags. Answers false when the body is malformed. */
export const readXattrBody = (inode: Inode, body: Buffer): boolean => {
  if (body[4] !== 0) return false
  const xattrs: Array<Xattr> = []
  let offset = XATTR_HEADER
  while (offset + XATTR_ENTRY <= body.length) {
    const nameLength = body[offset]!
    const prefix = XATTR_PREFIXES.find(([index]) => index === body[offset + 1])
    const valueLength = body.readUInt16LE(offset + 2)
    const valueAt = offset + XATTR_ENTRY + nameLength
    if (prefix === undefined || valueLength > XATTR_VALUE_MAX || valueAt + valueLength > body.length) return false
    const name = prefix[1] + body.toString("latin1", offset + XATTR_ENTRY, valueAt)
    if (name === IMPLICIT_XATTR) inode.implicit = true
    else if (name === OPAQUE_XATTR) inode.opaque = true
    else if (name === LINKS_LOWER_XATTR) inode.linksLower = true
    else if (name === LOWER_LINK_XATTR) inode.lowerLink = body.toString("latin1", valueAt, valueAt + valueLength)
    else if (storable(name))
      xattrs.push({ name, value: Uint8Array.from(body.subarray(valueAt, valueAt + valueLength)) })
    else return false
    offset = roundUp(valueAt + valueLength, 4)
  }
  if (offset !== body.length) return false
  if (xattrs.length > 0) inode.xattrs = xattrs
  return true
}
