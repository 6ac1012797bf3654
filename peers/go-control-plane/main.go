// An xDS server made of go-control-plane's own parts, to measure Atlas against: a snapshot cache with a snapshot for each node, ADS,
// mutual TLS. What it serves it is given; it plans nothing.
//
//	go-control-plane --resources DIR --listen 127.0.0.1:PORT --cert PEM --key PEM --ca PEM
//
// DIR has one file per node, NODE.set: delta resources (envoy.service.discovery.v3.Resource), each with its length before it as a varint.
// Commands come on standard input, a line each, and are answered by a line:
//
//	load ID NODE FILE   decodes a change: FILE has resources like DIR's; those without a body are removed
//	apply ID            makes that node's next snapshot and sets it
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
)

// Resources of one node, by type and name.
type resources map[string]map[string]types.Resource

// A change to one node: nil is removed.
type change struct {
	node string
	set  resources
}

func empty(typeURL string) (types.Resource, error) {
	switch typeURL {
	case resource.ClusterType:
		return &clusterv3.Cluster{}, nil
	case resource.ListenerType:
		return &listenerv3.Listener{}, nil
	case resource.RouteType:
		return &routev3.RouteConfiguration{}, nil
	case resource.SecretType:
		return &secretv3.Secret{}, nil
	}
	return nil, fmt.Errorf("no resource type: %q", typeURL)
}

// Reads a file of resources. The name of one that is removed stands behind its type: TYPE/NAME in the aliases.
func read(path string) (resources, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	reader := bufio.NewReader(file)
	all := resources{}
	for {
		length, err := binary.ReadUvarint(reader)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		bytes := make([]byte, length)
		if _, err := io.ReadFull(reader, bytes); err != nil {
			return nil, err
		}
		wire := &discovery.Resource{}
		if err := proto.Unmarshal(bytes, wire); err != nil {
			return nil, err
		}
		if wire.Resource == nil {
			typeURL := strings.Join(wire.Aliases, "")
			put(all, typeURL, wire.Name, nil)
			continue
		}
		message, err := empty(wire.Resource.TypeUrl)
		if err != nil {
			return nil, err
		}
		if err := proto.Unmarshal(wire.Resource.Value, message); err != nil {
			return nil, err
		}
		put(all, wire.Resource.TypeUrl, wire.Name, message)
	}
}

func put(all resources, typeURL, name string, message types.Resource) {
	if all[typeURL] == nil {
		all[typeURL] = map[string]types.Resource{}
	}
	all[typeURL][name] = message
}

type control struct {
	cache   cache.SnapshotCache
	nodes   map[string]resources
	changes map[string]change
	version int
}

// Makes a node's next snapshot of everything it has, and sets it.
func (c *control) publish(node string) error {
	c.version++
	lists := map[string][]types.Resource{}
	for typeURL, byName := range c.nodes[node] {
		for _, message := range byName {
			lists[typeURL] = append(lists[typeURL], message)
		}
	}
	snapshot, err := cache.NewSnapshot(strconv.Itoa(c.version), lists)
	if err != nil {
		return err
	}
	return c.cache.SetSnapshot(context.Background(), node, snapshot)
}

func (c *control) command(words []string) error {
	switch {
	case len(words) == 4 && words[0] == "load":
		set, err := read(words[3])
		if err != nil {
			return fmt.Errorf("%s: %w", words[3], err)
		}
		c.changes[words[1]] = change{node: words[2], set: set}
		return nil
	case len(words) == 2 && words[0] == "apply":
		change, known := c.changes[words[1]]
		if !known {
			return fmt.Errorf("no change has been loaded as %q", words[1])
		}
		delete(c.changes, words[1])
		for typeURL, byName := range change.set {
			for name, message := range byName {
				if c.nodes[change.node] == nil {
					c.nodes[change.node] = resources{}
				}
				if message == nil {
					delete(c.nodes[change.node][typeURL], name)
				} else {
					put(c.nodes[change.node], typeURL, name, message)
				}
			}
		}
		return c.publish(change.node)
	}
	return fmt.Errorf("no command: %q", strings.Join(words, " "))
}

func main() {
	directory := flag.String("resources", "", "directory of NODE.set files")
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	certFile := flag.String("cert", "", "PEM with the server's certificate chain")
	keyFile := flag.String("key", "", "PEM with its key")
	caFile := flag.String("ca", "", "PEM with the roots of the clients' certificates")
	flag.Parse()
	if err := run(*directory, *listen, *certFile, *keyFile, *caFile); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(directory, listen, certFile, keyFile, caFile string) error {
	c := &control{
		cache:   cache.NewSnapshotCache(true, cache.IDHash{}, nil),
		nodes:   map[string]resources{},
		changes: map[string]change{},
	}
	files, err := filepath.Glob(filepath.Join(directory, "*.set"))
	if err != nil {
		return err
	}
	for _, file := range files {
		node := strings.TrimSuffix(filepath.Base(file), ".set")
		if c.nodes[node], err = read(file); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := c.publish(node); err != nil {
			return err
		}
	}
	certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return err
	}
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s has no certificate", caFile)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{certificate},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    roots,
		MinVersion:   tls.VersionTLS13,
		// Nobody resumes here, and Atlas gives out none either.
		SessionTicketsDisabled: true,
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	// As its documentation's example does.
	grpcServer := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(config)),
		grpc.MaxConcurrentStreams(1000000),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 30 * time.Second, PermitWithoutStream: true}),
	)
	discovery.RegisterAggregatedDiscoveryServiceServer(grpcServer, server.NewServer(context.Background(), c.cache, nil))
	go func() {
		scanner := bufio.NewScanner(os.Stdin)
		for scanner.Scan() {
			if err := c.command(strings.Fields(scanner.Text())); err != nil {
				fmt.Println("error:", err)
			} else {
				fmt.Println("ok")
			}
		}
		// Whoever started this is gone.
		grpcServer.Stop()
	}()
	fmt.Println("serving", listener.Addr())
	return grpcServer.Serve(listener)
}
