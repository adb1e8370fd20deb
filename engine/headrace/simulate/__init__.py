"""`headrace simulate`: SageMaker's side of an endpoint, on loopback, before any container that keeps its contract.

    client (boto3) --> endpoint --> platform --> residency --> disk       what is unpacked
                       HTTP, API    one          what is       packages   the folder that stands for S3
                       errors       invocation   loaded
                                        |            |
                                        +--> model_api <-- container      the process: started, pinged, restarted

rules holds the platform's limits with their sources, cloudwatch its metrics, trace what became of each request.
"""
