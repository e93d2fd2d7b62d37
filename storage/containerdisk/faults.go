package containerdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"virtmesh/storage/fetch"
	"virtmesh/storage/stall"
)

// classify wraps an error of the registry library in one of this package's classes.
func classify(ctx context.Context, err error) error {
	var closed *fetch.ClosedError
	if errors.As(err, &closed) {
		// Only this of all that was tried says what to do.
		return fmt.Errorf("%w: %w; an administrator can list the server in images.internalRegistries of the host", ErrRegistryUnavailable, closed)
	}
	var slow net.Error
	if errors.As(err, &slow) && slow.Timeout() && !isClassified(slow) && ctx.Err() == nil {
		// It does not even finish a handshake, whatever else was tried.
		return fmt.Errorf("%w: %w", ErrRegistryTimeout, err)
	}
	if err == nil || isClassified(err) {
		return err
	}
	if errors.Is(err, stall.ErrStalled) {
		return fmt.Errorf("%w: %w", ErrRegistryTimeout, err)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var (
		answer *transport.Error
		netErr net.Error
		urlErr *url.Error
	)
	switch {
	case errors.As(err, &answer):
		return fmt.Errorf("%w: %w", classOf(answer.StatusCode), &answerError{answer})
	case strings.Contains(err.Error(), noToken):
		// What follows is what the service sent, in which there may be another token.
		return fmt.Errorf("%w: the registry's token service gave no token", ErrUnauthorized)
	case strings.Contains(err.Error(), "error verifying"), strings.Contains(err.Error(), "does not match"):
		// The library's type for this is internal to it.
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case errors.As(err, &netErr), errors.As(err, &urlErr), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%w: %w", ErrRegistryUnavailable, err)
	}
	return err
}

// noToken is how the library's error for an answer without a token begins.
const noToken = "no token in bearer response"

// classOf returns the class of an answer that is no success.
func classOf(status int) error {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return ErrUnauthorized
	case http.StatusNotFound:
		return ErrImageNotFound
	}
	return ErrRegistryUnavailable
}

// answerError tells of a registry's answer what a registry has to say: its status, and
// codes with their messages. What else a server sends with an error is left out. It may
// repeat the request, and a server that is no registry would show users its pages.
type answerError struct{ answer *transport.Error }

// Error implements error.
func (e *answerError) Error() string {
	said := make([]string, 0, len(e.answer.Errors))
	for _, d := range e.answer.Errors {
		said = append(said, strings.TrimSuffix(string(d.Code)+": "+d.Message, ": "))
	}
	text := strings.TrimSpace(fmt.Sprintf("the registry answers %d %s", e.answer.StatusCode, http.StatusText(e.answer.StatusCode)))
	if len(said) > 0 {
		text += ": " + strings.Join(said, "; ")
	}
	return text
}

// Unwrap returns the library's error.
func (e *answerError) Unwrap() error { return e.answer }

func isClassified(err error) bool {
	for _, class := range []error{ErrBadReference, ErrImageNotFound, ErrUnauthorized, ErrRegistryUnavailable,
		ErrRegistryTimeout, ErrCorrupt, ErrNotAnImage, ErrArchitecture, ErrTooLarge, ErrNoSpace, ErrNotPresent, ErrClosed} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}
