package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
)

// measureFirstLists measures what an informer of client-go begins with, a list or a watch that
// sends all objects first, without the time that the client takes to decode it: the answer is
// read and thrown away.
func measureFirstLists(ctx context.Context, r *report, name string, client kubernetes.Interface, frames frameReader) error {
	list, initial := make([]float64, watchRounds), make([]float64, watchRounds)
	for i := range watchRounds {
		took, err := drain(ctx, client, metav1.ListOptions{ResourceVersion: "0"}, func(r *bufio.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		})
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		list[i] = took.Seconds()
		o := withInitialEvents()
		o.Watch = true
		took, err = drain(ctx, client, o, func(r *bufio.Reader) error {
			for range watchedEvents + 1 { // the bookmark behind them, too
				if err := frames(r); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("watch with initial events: %w", err)
		}
		initial[i] = took.Seconds()
	}
	r.add(figure{Name: name + "_first_list", Value: median(list), Unit: "s"})
	r.add(figure{Name: name + "_first_watch", Value: median(initial), Unit: "s"})
	return nil
}

// drain asks for events and lets read read the answer. It returns how long that took.
func drain(ctx context.Context, client kubernetes.Interface, o metav1.ListOptions, read func(*bufio.Reader) error) (time.Duration, error) {
	began := time.Now()
	body, err := client.CoreV1().RESTClient().Get().Resource("events").VersionedParams(&o, scheme.ParameterCodec).Stream(ctx)
	if err != nil {
		return 0, err
	}
	err = read(bufio.NewReaderSize(body, 64<<10))
	return time.Since(began), errors.Join(err, body.Close())
}

// frameReader reads one event of a watch and throws it away.
type frameReader func(*bufio.Reader) error

// jsonFrame reads an event that ends with its line.
func jsonFrame(r *bufio.Reader) error {
	for {
		part, err := r.ReadSlice('\n')
		if err == nil || !errors.Is(err, bufio.ErrBufferFull) {
			return checkError(part, err)
		}
	}
}

// checkError returns err, or that an event tells an error.
func checkError(event []byte, err error) error {
	if err == nil && bytes.HasPrefix(event, []byte(`{"type":"ERROR"`)) {
		return fmt.Errorf("the watch ends with %s", event)
	}
	return err
}

// protobufFrame reads an event behind its length.
func protobufFrame(r *bufio.Reader) error {
	var size uint32
	if err := binary.Read(r, binary.BigEndian, &size); err != nil {
		return err
	}
	_, err := r.Discard(int(size))
	return err
}
