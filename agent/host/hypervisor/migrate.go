package hypervisor

import (
	"context"
	"time"
)

// Migrator moves running guests between hosts. An implementation of Hypervisor may also
// implement Migrator.
type Migrator interface {
	// Migrate moves the guest, and returns when it runs on the destination and no
	// longer here. On the destination it is defined as opts says; here it stays
	// defined, shut off with ReasonMigrated, until Undefine. On error the guest still
	// runs here, unless the error wraps ErrMigrationLost. When ctx ends, the migration
	// is aborted, and Migrate waits until it is certain on which host the guest is.
	Migrate(ctx context.Context, ref Ref, opts MigrateOptions) (MigrationStats, error)
	// MigrationStats returns the progress of a migration. Without a migration the
	// result is zero. Jobs.AbortJob aborts a migration that no call of Migrate waits
	// for.
	MigrationStats(ctx context.Context, ref Ref) (MigrationStats, error)
	// AwaitMigration waits for the end of a migration in progress and returns its
	// outcome as Migrate does. An agent that was restarted during a migration uses it.
	// When ctx ends, AwaitMigration returns and the migration continues. Without a
	// migration in progress the result follows from the domain's state: success when
	// the guest has left, an error that wraps ErrNotRunning when the guest is off, and
	// otherwise an error that says that the guest is still here. The statistics may be
	// zero.
	AwaitMigration(ctx context.Context, ref Ref) (MigrationStats, error)
	// StartPostCopy lets the guest run on the destination at once and fetch its
	// remaining memory from here. It needs MigrateOptions.AllowPostCopy. From then on
	// the loss of either host means the loss of the guest.
	StartPostCopy(ctx context.Context, ref Ref) error
}

// MigrateOptions say where a guest goes and how its domain changes there.
type MigrateOptions struct {
	// Destination is the URI under which this host's daemon reaches the other's.
	Destination string
	// MemoryURI and DisksURI are where the emulators meet, as unix:///path. The path is
	// the same on both hosts: a listener of the agent here, the emulator's there.
	MemoryURI, DisksURI string
	// Owner is the domain's metadata on the destination: the same Ref and state to keep,
	// the new host and the claim's epoch.
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
	// BytesPerSecond limits the copying; zero means no limit.
	BytesPerSecond int64
	// AutoConverge slows down a guest that writes memory faster than it can be copied.
	AutoConverge bool
	// AllowPostCopy makes StartPostCopy possible.
	AllowPostCopy bool
}

// MigrationStats count a migration. Sizes are in bytes.
type MigrationStats struct {
	Elapsed time.Duration
	// Downtime is how long the guest was stopped or, during the migration, how long it
	// is expected to be.
	Downtime                                  time.Duration
	MemoryTotal, MemoryDone, MemoryRemaining  uint64
	DiskTotal, DiskDone, DiskRemaining        uint64
	DirtyBytesPerSecond, MemoryBytesPerSecond uint64
	Iterations                                uint64
	PostCopy                                  bool
}
