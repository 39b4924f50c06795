# Targets of Dataflow and its Flex Template; the Makefile includes this file. Explained in docs/dataflow.md.
BIN ?= .venv/bin
GCLOUD ?= gcloud
REGION ?= us-central1
REPOSITORY ?= pipelines
TAG ?= $(shell date -u +%Y%m%d-%H%M%S)
IMAGE ?= $(REGION)-docker.pkg.dev/$(PROJECT)/$(REPOSITORY)/gemini-image-pipeline:$(TAG)
TEMPLATE ?= gs://$(BUCKET)/templates/gemini-image-pipeline.json
JOB ?= gemini-image-pipeline
MAX_WORKERS ?= 2

.PHONY: template-metadata template-build template-run test-runners test-image

template-metadata: venv  ## the template's page, from the flags
	$(BIN)/python -m templates.metadata

template-build:  ## image and template file, in Cloud Build: make template-build PROJECT=... BUCKET=... [REGION= REPOSITORY= TAG=]
	$(GCLOUD) builds submit --project=$(PROJECT) --region=$(REGION) --config=templates/cloudbuild.yaml \
	  --substitutions=_IMAGE=$(IMAGE),_TEMPLATE=$(TEMPLATE) .

template-run:  ## launch it: make template-run PROJECT=... BUCKET=... PARAMETERS="^~^input_table=P.D.T~output_table=P.D.T~limit=10"
	$(GCLOUD) dataflow flex-template run $(JOB) --project=$(PROJECT) --region=$(REGION) \
	  --template-file-gcs-location=$(TEMPLATE) --temp-location=gs://$(BUCKET)/tmp \
	  --worker-machine-type=e2-standard-2 --num-workers=1 --max-workers=$(MAX_WORKERS) \
	  --additional-experiments=no_use_multiple_sdk_containers \
	  --additional-pipeline-options=number_of_worker_harness_threads=4 \
	  --parameters="$(PARAMETERS)"

test-runners: venv  ## the samples through Prism too; needs Go
	$(BIN)/python -m pytest tests/template/check_prism.py

test-image: venv  ## builds the image on stand-in bases and starts launcher and worker in it; needs root, buildah, debootstrap, Go
	$(BIN)/python -m pytest tests/template/check_image.py
