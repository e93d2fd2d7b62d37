package raftstore

import "fmt"

// formats are the formats of one kind of data that this version reads, numbered from 1.
// Which of them is written follows from the feature level, so that every replica of the
// group can read it.
type formats struct {
	what string
	// since is the feature level from which on each format is written.
	since []uint32
}

// entryFormats are the formats of a log entry. The second differs from the first in its
// checksum, see entryChecksum.
func entryFormats() formats { return formats{"log entry", []uint32{BaseLevel, FollowersLevel}} }

// snapshotFormats are the formats of a snapshot, which are those of a backup too.
func snapshotFormats() formats { return formats{"snapshot", []uint32{BaseLevel}} }

// at returns the format that is written at a feature level.
func (f formats) at(level uint32) uint8 {
	number := uint8(1)
	for i, since := range f.since {
		if since <= level {
			number = uint8(i + 1)
		}
	}
	return number
}

// check returns why data of a format cannot be read.
func (f formats) check(number uint8) error {
	if number >= 1 && int(number) <= len(f.since) {
		return nil
	}
	return fmt.Errorf("%w: %s has format %d, and this version reads formats 1 to %d: install the version that wrote it or a newer one",
		ErrFeatureLevel, f.what, number, len(f.since))
}
