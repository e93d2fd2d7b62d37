package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"k8s.io/client-go/rest"

	"virtmesh/agent/fault"
	"virtmesh/agent/port"
)

// mesh calls the mesh's administration API. A nil request sends no body, a nil
// answer ignores the one that comes.
func (c *connection) mesh(ctx context.Context, method, path string, request, answer any) error {
	response, err := c.call(ctx, method, path, request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if answer == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}

// call sends one request and returns the answer to one that succeeded.
func (c *connection) call(ctx context.Context, method, path string, request any) (*http.Response, error) {
	client, err := rest.HTTPClientFor(c.rest)
	if err != nil {
		return nil, fmt.Errorf("connect to the mesh: %w", err)
	}
	var body io.Reader
	if request != nil {
		data, err := json.Marshal(request)
		if err != nil {
			return nil, fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.rest.Host, "/")+path, body)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	port.NewSpeaker("", Version).Introduce(r.Header)
	response, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("reach the agent: %w", err)
	}
	if response.StatusCode >= 300 {
		defer response.Body.Close()
		told := fault.Read(response)
		if told.Code == fault.Unavailable && told.Remedy == "" && c.patience != nil && path != statusPath {
			told = told.WithRemedy(c.patience.remedy())
		}
		return nil, told
	}
	return response, nil
}
