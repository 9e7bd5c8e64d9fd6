# .configs[] | select(.["@type"] | test(".*ListenersConfigDump")) | .dynamic_listeners[].active_state.listener | select(.name == "virtualInbound") | .filter_chains[-2:][].name
"0.0.0.0_50051"
"0.0.0.0_50051"

# .configs[] | select(.["@type"] | test(".*ListenersConfigDump")) | .dynamic_listeners[].active_state.listener | select(.name == "virtualInbound") | .filter_chains[-2:][].filter_chain_match
{
  "destination_port": 50051,
  "transport_protocol": "tls",
  "application_protocols": [
    "istio",
    "istio-peer-exchange",
    "istio-http/1.0",
    "istio-http/1.1",
    "istio-h2"
  ]
}
{
  "destination_port": 50051,
  "transport_protocol": "raw_buffer"
}

# .configs[] | select(.["@type"] | test(".*ListenersConfigDump")) | .dynamic_listeners[].active_state.listener | select(.name == "virtualInbound") | .filter_chains[-2:][] | keys
[
  "filter_chain_match",
  "filters",
  "name",
  "transport_socket"
]
[
  "filter_chain_match",
  "filters",
  "name"
]

# .configs[] | select(.["@type"] | test(".*ListenersConfigDump")) | .dynamic_listeners[].active_state.listener | select(.name == "virtualInbound") | .filter_chains[-2].transport_socket.typed_config.common_tls_context.combined_validation_context
{
  "default_validation_context": {
    "match_subject_alt_names": [
      {
        "prefix": "spiffe://cluster.local/"
      }
    ]
  },
  "validation_context_sds_secret_config": {
    "name": "ROOTCA",
    "sds_config": {
      "api_config_source": {
        "api_type": "GRPC",
        "grpc_services": [
          {
            "envoy_grpc": {
              "cluster_name": "sds-grpc"
            }
          }
        ],
        "set_node_on_first_message_only": true,
        "transport_api_version": "V3"
      },
      "initial_fetch_timeout": "0s",
      "resource_api_version": "V3"
    }
  }
}

# .configs[] | select(.["@type"] | test(".*ClustersConfigDump")) | .dynamic_active_clusters[].cluster | select(.name == "outbound|50051|default|uc.dev.svc.cluster.local") | .transport_socket_matches[].name
"tlsMode-istio"
"tlsMode-disabled"

# .configs[] | select(.["@type"] | test(".*ClustersConfigDump")) | .dynamic_active_clusters[].cluster | select(.name == "outbound|50051|default|uc.dev.svc.cluster.local") | .transport_socket_matches[].match
{
  "tlsMode": "istio"
}
{}

# .configs[] | select(.["@type"] | test(".*EndpointsConfigDump")) | .dynamic_endpoint_configs[].endpoint_config | select(.cluster_name == "outbound|50051|default|uc.dev.svc.cluster.local") | .endpoints[].lb_endpoints[].metadata
{
  "filter_metadata": {
    "istio": {
      "workload": "uc-default;dev;uc;;cn-shanghai"
    },
    "envoy.transport_socket_match": {
      "tlsMode": "istio"
    }
  }
}

# .configs[] | select(.["@type"] | test(".*ClustersConfigDump")) | .dynamic_active_clusters[].cluster | select(.name == "outbound|50051|default|uc.dev.svc.cluster.local") | .transport_socket_matches[0].transport_socket.typed_config
{
  "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
  "common_tls_context": {
    "tls_params": {
      "tls_minimum_protocol_version": "TLSv1_2",
      "tls_maximum_protocol_version": "TLSv1_3"
    },
    "alpn_protocols": [
      "istio-peer-exchange",
      "istio",
      "h2"
    ],
    "tls_certificate_sds_secret_configs": [
      {
        "name": "default",
        "sds_config": {
          "api_config_source": {
            "api_type": "GRPC",
            "grpc_services": [
              {
                "envoy_grpc": {
                  "cluster_name": "sds-grpc"
                }
              }
            ],
            "set_node_on_first_message_only": true,
            "transport_api_version": "V3"
          },
          "initial_fetch_timeout": "0s",
          "resource_api_version": "V3"
        }
      }
    ],
    "combined_validation_context": {
      "default_validation_context": {
        "match_subject_alt_names": [
          {
            "exact": "spiffe://cluster.local/ns/dev/sa/default"
          }
        ]
      },
      "validation_context_sds_secret_config": {
        "name": "ROOTCA",
        "sds_config": {
          "api_config_source": {
            "api_type": "GRPC",
            "grpc_services": [
              {
                "envoy_grpc": {
                  "cluster_name": "sds-grpc"
                }
              }
            ],
            "set_node_on_first_message_only": true,
            "transport_api_version": "V3"
          },
          "initial_fetch_timeout": "0s",
          "resource_api_version": "V3"
        }
      }
    }
  },
  "sni": "outbound_.50051_.default_.uc.dev.svc.cluster.local"
}

# .configs[] | select(.["@type"] | test(".*ClustersConfigDump")) | .static_clusters[].cluster | select(.name == "sds-grpc")
{
  "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
  "name": "sds-grpc",
  "type": "STATIC",
  "connect_timeout": "1s",
  "load_assignment": {
    "cluster_name": "sds-grpc",
    "endpoints": [
      {
        "lb_endpoints": [
          {
            "endpoint": {
              "address": {
                "pipe": {
                  "path": "./var/run/secrets/workload-spiffe-uds/socket"
                }
              }
            }
          }
        ]
      }
    ]
  },
  "typed_extension_protocol_options": {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
      "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
      "explicit_http_config": {
        "http2_protocol_options": {}
      }
    }
  }
}

