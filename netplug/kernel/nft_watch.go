package kernel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/nftables"
	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"virtmesh/netplug"
)

// watchBuffer is the size of the buffer for reports of the kernel, in bytes. What does not
// fit is reported as lost, and that counts as a change.
const watchBuffer = 1 << 20

// WatchFilter implements netplug.Kernel by the reports that the kernel sends of each change
// to its packet filter.
func (k *Kernel) WatchFilter(ctx context.Context, changed func()) error {
	conn, err := mdl.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("watch packet filter: %w", err)
	}
	err = errors.Join(conn.SetReadBuffer(watchBuffer), conn.JoinGroup(unix.NFNLGRP_NFTABLES))
	if err != nil {
		return errors.Join(fmt.Errorf("watch packet filter: %w", err), conn.Close())
	}
	disturbed := make(chan struct{}, 1)
	var reader sync.WaitGroup
	var readErr error
	failed := make(chan struct{})
	reader.Go(func() {
		defer close(failed)
		readErr = readReports(conn, disturbed)
	})
	defer reader.Wait()
	defer conn.Close()
	// What happened before the kernel reported is unknown.
	changed()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-failed:
			return fmt.Errorf("watch packet filter: %w", readErr)
		case <-disturbed:
			changed()
		}
	}
}

// readReports signals on disturbed that netplug's tables were touched, until the connection
// is closed or fails. A signal that was not taken yet stands for later ones too.
func readReports(conn *mdl.Conn, disturbed chan<- struct{}) error {
	for {
		reports, err := conn.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		if err != nil || slices.ContainsFunc(reports, concernsUs) {
			select {
			case disturbed <- struct{}{}:
			default:
			}
		}
	}
}

// concernsUs reports whether a report is about something in one of netplug's tables.
func concernsUs(report mdl.Message) bool {
	if len(report.Data) < nfgenLen || !slices.Contains(families, nftables.TableFamily(report.Data[0])) {
		return false
	}
	attrs, err := mdl.UnmarshalAttributes(report.Data[nfgenLen:])
	// The name of the table is attribute 1 of all kinds of objects.
	return err != nil || string(attribute(attrs, unix.NFTA_RULE_TABLE)) == string(zeroTerminated(netplug.FilterTable))
}
