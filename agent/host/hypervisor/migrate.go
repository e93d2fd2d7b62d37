package hypervisor

import (
	"context"
	"time"
)

// Migrator moves running guests between hosts. An implementation of Hypervisor may be
// one too.
type Migrator interface {
	// Migrate moves the guest, and returns when it runs on the destination and no
	// longer here. On the destination it is defined as opts says; here it stays
	// defined, shut off with ReasonMigrated, until Undefine. On error the guest goes
	// on here, unless the error wraps ErrMigrationLost. When ctx ends the migration is
	// aborted and Migrate waits until the guest is on one side for certain.
	Migrate(ctx context.Context, ref Ref, opts MigrateOptions) (MigrationStats, error)
	// MigrationStats tells how far a migration under way has come. Without one the
	// result is zero. Jobs.AbortJob gives a migration up that Migrate does not wait for.
	MigrationStats(ctx context.Context, ref Ref) (MigrationStats, error)
	// AwaitMigration waits for the end of a migration that is under way, as an agent
	// does that was restarted meanwhile, and tells the outcome as Migrate does. When ctx
	// ends it gives up waiting and the migration goes on. Without a migration under way
	// it tells what the domain's state says: success when the guest has left, an error
	// that wraps ErrNotRunning when it is off, and otherwise one that says that the
	// guest is still here. The statistics may be zero.
	AwaitMigration(ctx context.Context, ref Ref) (MigrationStats, error)
	// StartPostCopy lets the guest run on the destination at once, and fetch from here
	// what it has not got yet. It needs MigrateOptions.AllowPostCopy. From then on the
	// loss of either host is the loss of the guest.
	StartPostCopy(ctx context.Context, ref Ref) error
}

// MigrateOptions say where a guest goes and what it finds there.
type MigrateOptions struct {
	// Destination is the URI under which this host's daemon reaches the other's.
	Destination string
	// MemoryURI and DisksURI are where the emulators meet, as unix:///path. The path is
	// the same on both hosts: a listener of the agent here, the emulator's there.
	MemoryURI, DisksURI string
	// Owner is the domain's metadata on the destination: the same Ref, the new host and
	// the claim's epoch.
	Owner Owner
	// CopyVolumes names the volumes whose data is copied along. The others must be the
	// same storage on both hosts. Their disks must exist on the destination, as large
	// as here.
	CopyVolumes []string
	// DiskPaths and TapDevices give, by volume and interface name, the paths and
	// devices that differ on the destination. SerialLog and NVRAM do the same for the
	// console's log and the firmware's variables.
	DiskPaths, TapDevices map[string]string
	SerialLog, NVRAM      string
	// BytesPerSecond bounds the copying; zero does not.
	BytesPerSecond int64
	// AutoConverge slows a guest that writes faster than can be copied.
	AutoConverge bool
	// AllowPostCopy makes StartPostCopy possible.
	AllowPostCopy bool
}

// MigrationStats count a migration. Sizes are in bytes.
type MigrationStats struct {
	Elapsed time.Duration
	// Downtime is how long the guest stood still, or while it is under way is expected
	// to.
	Downtime                                  time.Duration
	MemoryTotal, MemoryDone, MemoryRemaining  uint64
	DiskTotal, DiskDone, DiskRemaining        uint64
	DirtyBytesPerSecond, MemoryBytesPerSecond uint64
	Iterations                                uint64
	PostCopy                                  bool
}
