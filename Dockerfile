# The course in a container, at its tested versions, PyTorch without CUDA:
#   docker build -t course .
#   docker run --rm -p 8888:8888 course
# It also grades strangers, without a network (see docs/teaching.md):
#   docker run --rm --network none -v "$PWD/submissions:/submissions:ro" course \
#     python -m tft_utils.course.grading /submissions
FROM python:3.11-slim
RUN useradd --create-home learner
WORKDIR /home/learner/course
# The packages first, in a layer that a change of a lesson leaves alone.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY tft_utils/__init__.py tft_utils/
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt -e .
COPY --chown=learner . .
RUN chown learner:learner .
USER learner
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb"]
