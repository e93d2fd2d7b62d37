package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// burstTime is how long clients list all again and again.
	burstTime = 20 * time.Second
	// loneRounds is how often a client that is alone lists everything.
	loneRounds = 5

	tableType    = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
	metadataType = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"
	protobufType = "application/vnd.kubernetes.protobuf,application/json"
)

// A lister is what one client of a burst asks for, again and again: the whole of a list,
// in pages if it has a limit.
type lister struct {
	path, accept string
	limit        int
}

// burst are clients at one time: kubectl get -A -o json and kubectl get -A, which ask for
// pages, scripts and informers that ask for all at once.
var burst = []lister{
	{watched[0], "application/json", 500}, {watched[0], "application/json", 500},
	{watched[0], "application/json", 0}, {watched[0], "application/json", 0},
	{watched[1], "application/json", 0}, {watched[1], "application/json", 0},
	{watched[1], tableType, 500}, {watched[0], tableType, 0},
	{watched[1], metadataType, 0}, {watched[2], protobufType, 0},
}

// measureBurst measures how long a client that is alone waits for a whole list, and what
// the agent takes at most while many list everything, several at once.
func (a *agentProcess) measureBurst(ctx context.Context, r *report, name string, budget float64) error {
	times := make([]float64, loneRounds)
	for i := range times {
		began := time.Now()
		if err := a.listAll(ctx, lister{path: watched[0], accept: "application/json"}); err != nil {
			return err
		}
		times[i] = 1000 * time.Since(began).Seconds()
	}
	r.add(figure{Name: name + "lone_list", Value: median(times), Unit: "ms"})
	// The kernel forgets the most that the process has taken so far.
	if err := os.WriteFile(filepath.Join("/proc", strconv.Itoa(a.Process.Pid), "clear_refs"), []byte("5"), 0); err != nil {
		return fmt.Errorf("measure a burst: %w", err)
	}
	lists, err := a.runBurst(ctx)
	if err != nil {
		return err
	}
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(a.Process.Pid), "status"))
	if err != nil {
		return fmt.Errorf("measure a burst: %w", err)
	}
	peak, err := parseMemory(strings.ReplaceAll(string(status), "VmHWM:", "VmRSS:") + "Anonymous: 1 kB\n")
	if err != nil {
		return err
	}
	r.add(figure{Name: name + "burst_lists", Value: float64(lists) / burstTime.Seconds(), Unit: "1/s"})
	r.add(figure{Name: name + "burst_peak_rss", Value: peak.rss, Unit: "MB", Budget: atMost(budget)})
	return nil
}

// runBurst runs all clients for burstTime and returns how many lists they got.
func (a *agentProcess) runBurst(ctx context.Context) (lists int, err error) {
	until := time.Now().Add(burstTime)
	counts, errs := make([]int, len(burst)), make([]error, len(burst))
	var clients sync.WaitGroup
	for i, l := range burst {
		clients.Go(func() {
			for ; errs[i] == nil && time.Now().Before(until); counts[i]++ {
				errs[i] = a.listAll(ctx, l)
			}
		})
	}
	clients.Wait()
	for _, n := range counts {
		lists += n
	}
	return lists, errors.Join(errs...)
}

// listAll reads a whole list, page by page.
func (a *agentProcess) listAll(ctx context.Context, l lister) error {
	for token := ""; ; {
		path := fmt.Sprintf("%s?limit=%d&continue=%s", l.path, l.limit, token)
		response, err := a.getAs(ctx, path, l.accept)
		if err != nil {
			return err
		}
		token, err = readContinue(response.Body)
		_ = response.Body.Close()
		if err != nil || token == "" {
			return err
		}
	}
}

// readContinue reads a list and returns its continue token.
func readContinue(list io.Reader) (string, error) {
	head := make([]byte, 1<<10)
	n, err := io.ReadFull(list, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", fmt.Errorf("read a list: %w", err)
	}
	if _, err := io.Copy(io.Discard, list); err != nil {
		return "", fmt.Errorf("read a list: %w", err)
	}
	_, after, _ := strings.Cut(string(head[:n]), `"continue":"`)
	token, _, _ := strings.Cut(after, `"`)
	return token, nil
}

// getAs begins a request for an answer of some media type.
func (a *agentProcess) getAs(ctx context.Context, path, accept string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.API+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", path, err)
	}
	request.Header.Set("Accept", accept)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", path, err)
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		return nil, fmt.Errorf("ask for %s: %s", path, response.Status)
	}
	return response, nil
}
