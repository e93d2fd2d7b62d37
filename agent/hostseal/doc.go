// Package hostseal owns the key with which a host seals files that hold secrets: its sealing
// key. A sealed file is worth nothing without it.
//
// The sealing key is random (AES-256) and belongs to one state directory. Where the host has a
// TPM 2, the chip encrypts the key, and only that chip can decrypt it again: a disk alone, or
// the copy of one, does not open a sealed file. Where there is none, the key is a file of
// root's in a folder of its own, so that a copy of the sealed files alone opens nothing; a copy
// of the whole disk does.
//
// Invariants: a key is on the disk before anything is sealed with it. A key is deleted only
// when the caller says that nothing is sealed with it any more. What cannot be opened is an
// error (ErrShut) and is never deleted here. Sealing says who can read a file, not that it is
// the newest: a file that was replaced can be put back by whoever can write to the disk.
package hostseal
